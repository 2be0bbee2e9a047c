"""Another library's configuration in a spec: an inline mapping, or the name of a file that lies next to the spec."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from orchestrator.spec.problems import Problem, SpecError, shown
from orchestrator.spec.yaml_source import parse_yaml, read_text

Parser = Callable[[str, str], Any]
"""Text and the name of its file -> the value; raises ValueError with what is wrong, or SpecError."""


@dataclass(frozen=True)
class ConfigSource:
    """A configuration and where it was written."""

    values: Mapping[str, Any]
    path: str
    """Dotted path of the field of the spec that gives it."""
    file: str = ""
    """The file, as the spec names it; empty for an inline mapping."""
    lines: Mapping[str, int] = field(default_factory=dict)
    """Line of every key in the file, by dotted path in it."""

    def place(self, problem: Problem) -> Problem:
        """Return a problem of one of the values with the file and line of the value."""
        if not self.file or problem.file:
            return problem
        inner = problem.path.removeprefix(self.path).removeprefix(".")
        return replace(problem, file=self.file, line=self.lines.get(inner))


def read_config(config: Mapping[str, Any] | str | None, path: str, folder: Path, parse: Parser) -> ConfigSource:
    """Read a configuration.

    Args:
        config: A mapping, or the name of a file; None is the empty mapping.
        path: Dotted path of the field of the spec.
        folder: The spec's folder.
        parse: Reads the text of a file.

    Raises:
        SpecError: If the file cannot be used, or its root is no mapping.
    """
    if not isinstance(config, str):
        return ConfigSource(config or {}, path)
    if os.path.isabs(config) or os.path.normpath(config).split(os.sep)[0] == "..":
        message = "is outside the spec's folder, which is all that travels with the job"
        raise SpecError([Problem("", path, shown(config), message, "a path inside it")])
    try:
        text = read_text(folder / config, config)
    except SpecError as error:
        raise SpecError(
            [Problem("", path, shown(config), error.problems[0].message, "a file next to the spec")]
        ) from None
    try:
        values = parse(text, config)
    except ValueError as error:
        raise SpecError([Problem(config, path, "", str(error))]) from None
    if not isinstance(values, dict):
        raise SpecError([Problem(config, path, "", "is not a mapping", "a mapping of keys and values", line=1)])
    return ConfigSource(values, path, config, _lines(text, config))


def parse_json(text: str, file: str) -> Any:
    """Read JSON in which no object has a key twice.

    Raises:
        ValueError: If it is not such a text, with what is wrong.
    """
    try:
        return json.loads(text, object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise ValueError(f"is not valid JSON: line {error.lineno}: {error.msg}") from None
    except RecursionError:
        raise ValueError("is nested too deep") from None


def parse_config_yaml(text: str, file: str) -> Any:
    """Read YAML 1.2.

    Raises:
        SpecError: If it is not, with everything that is wrong.
    """
    source = parse_yaml(text, file)
    if source.problems:
        raise SpecError(source.problems)
    return source.data


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise ValueError(f"has the key {shown(key)} twice in one object")
        values[key] = value
    return values


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"has {name}, which is not a number of JSON")


def _lines(text: str, file: str) -> dict[str, int]:
    """Nearly every JSON text is YAML too, and that reader knows the lines; where it is not, they are unknown."""
    with contextlib.suppress(SpecError):
        return parse_yaml(text, file).lines
    return {}
