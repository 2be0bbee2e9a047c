"""A spec before it is typed: file, bases and overrides merged, with the origin of every value."""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.spec.problems import Problem, SpecError, dotted, shorten, shown
from orchestrator.spec.seams import seams
from orchestrator.spec.yaml_source import parse_yaml, read_yaml

OVERRIDE = "--set"
"""What problems of an override name as their file."""


@dataclass
class Document:
    """Merged values of a spec. Changed only while it is put together."""

    file: str
    """The spec's file as the user named it."""
    text: str
    """The spec's file as it was read, before `base` and overrides."""
    data: dict[str, Any]
    """Plain values; methods given by their name alone are spelt out."""
    origins: dict[str, tuple[str, int | None]]
    """File and line of every value, by dotted path."""
    problems: list[Problem] = field(default_factory=list)
    """What was wrong with single entries, which were left out."""

    def origin(self, path: str) -> tuple[str, int | None]:
        """Return the file and line of a field, or of the nearest section around it."""
        while path:
            if path in self.origins:
                return self.origins[path]
            path = path.rpartition(".")[0]
        return self.file, None


def read_document(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Document:
    """Read a spec, merge it over its `base`, and apply overrides of the form ``a.b=value``.

    Raises:
        SpecError: If one of the files cannot be used at all.
    """
    document = _with_base(Path(path), os.fspath(path), chain=())
    for override in overrides:
        problem = _apply(document, override)
        if problem is not None:
            document.problems.append(problem)
    _name_methods(document.data)
    return document


def with_values(data: dict[str, Any], values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Problem]]:
    """Return a copy of a spec's values with some of them set as overrides would, and why others cannot be set.

    Args:
        data: Plain values of a spec.
        values: What to set, in this order, by dotted path.
    """
    document = Document(OVERRIDE, "", copy.deepcopy(data), {})
    problems = {}
    for path, value in values.items():
        problem = _set(document, path.split("."), copy.deepcopy(value))
        if problem is not None:
            problems[path] = problem
    _name_methods(document.data)
    return document.data, problems


def _with_base(path: Path, file: str, chain: tuple[str, ...]) -> Document:
    source = read_yaml(path, file)
    origins: dict[str, tuple[str, int | None]] = {where: (file, line) for where, line in source.lines.items() if where}
    document = Document(file, source.text, _spell_out(source.data), origins, list(source.problems))
    base = document.data.pop("base", None)
    if base is None:
        return document
    chain = (*chain, os.path.realpath(path))
    below = _read_base(document, base, path.parent, chain)
    return _over(document, below)


def _read_base(document: Document, base: Any, folder: Path, chain: tuple[str, ...]) -> Document:
    legal = "path of a YAML file, relative to this one"
    base_path = folder / base if isinstance(base, str) else folder
    if not os.path.isfile(base_path):
        message = "no such file" if isinstance(base, str) else "not a path"
        raise _base_error(document, base, message, legal)
    if os.path.realpath(base_path) in chain:
        names = [os.path.basename(name) for name in (*chain, os.path.realpath(base_path))]
        raise _base_error(document, base, f"a cycle of bases: {' -> '.join(names)}", legal)
    return _with_base(base_path, os.path.normpath(base_path), chain)


def _base_error(document: Document, base: Any, message: str, legal: str) -> SpecError:
    file, line = document.origin("base")
    return SpecError([*document.problems, Problem(file, "base", shown(base), message, legal, line=line)])


def _over(above: Document, below: Document) -> Document:
    """Lay one document over another: mappings merge, everything else and methods of another name replace."""
    origins = dict(below.origins)
    data = _merged(below.data, above.data, "", origins)
    return Document(above.file, above.text, data, origins | above.origins, [*above.problems, *below.problems])


def _merged(below: Any, above: Any, path: str, origins: dict[str, tuple[str, int | None]]) -> Any:
    other_method = path in seams() and isinstance(above, dict) and isinstance(below, dict)
    other_method = other_method and "name" in above and above["name"] != below.get("name", above["name"])
    if other_method or not (isinstance(above, dict) and isinstance(below, dict)):
        _forget(origins, path)
        return above
    merged = dict(below)
    for key, value in above.items():
        inner = f"{path}.{key}" if path else key
        merged[key] = _merged(below[key], value, inner, origins) if key in below else value
    return merged


def _forget(origins: dict[str, tuple[str, int | None]], path: str) -> None:
    """Drop the origins of values that are no longer there."""
    for inner in [name for name in origins if name.startswith(f"{path}.")]:
        del origins[inner]


def _spell_out(data: dict[str, Any]) -> dict[str, Any]:
    """Turn ``engine: ddp`` into ``engine: {name: ddp}`` at every seam, so that sections can be merged."""
    for seam in seams():
        section, key = _section_around(data, seam)
        if isinstance(section.get(key), str):
            section[key] = {"name": section[key]}
    return data


def _name_methods(data: dict[str, Any]) -> None:
    """Give the default's name to sections that set a method's arguments without naming the method."""
    for path, seam in seams().items():
        section, key = _section_around(data, path)
        if seam.default and isinstance(section.get(key), dict):
            section[key].setdefault("name", seam.default)


def _section_around(data: dict[str, Any], path: str) -> tuple[dict[str, Any], str]:
    """The mapping that holds a field, empty where there is none, and the field's key in it."""
    *parents, key = path.split(".")
    section: Any = data
    for parent in parents:
        section = section.get(parent) if isinstance(section, dict) else None
    return (section if isinstance(section, dict) else {}), key


def _apply(document: Document, override: str) -> Problem | None:
    """Set one value, or return why it cannot be set."""
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys) or not text.strip():
        return Problem(OVERRIDE, "", "", f"{shown(override)} is not an override", "a.b=value; null for no value")
    if keys == ["base"]:
        return Problem(OVERRIDE, "base", shown(text), "cannot be set on the command line")
    try:
        source = parse_yaml(text, OVERRIDE)
    except SpecError as error:
        reason = error.problems[0].message
        return Problem(OVERRIDE, path, shorten(text), f"the value {reason}", "a YAML value; put it in quotes")
    if source.problems:
        first = source.problems[0]
        inner = ".".join(part for part in (path, first.path) if part)
        return Problem(OVERRIDE, inner, first.value, first.message, first.legal)
    return _set(document, keys, source.data)


def _set(document: Document, keys: list[str], value: Any) -> Problem | None:
    target: Any = document.data
    for depth, key in enumerate(keys):
        here = dotted(keys[:depth])
        if isinstance(target, list) and _index(key) >= len(target):
            legal = f"0 to {len(target) - 1}" if target else ""
            return Problem(OVERRIDE, dotted(keys), shown(value), f"{here} has no item {shorten(key)}", legal)
        if not isinstance(target, dict | list):
            message = f"{here} is {shown(target)}, which has no fields"
            return Problem(OVERRIDE, dotted(keys), shown(value), message)
        index: Any = _index(key) if isinstance(target, list) else key
        if depth == len(keys) - 1:
            target[index] = value
        elif isinstance(target, dict) and target.get(key) is None:
            if keys[depth + 1].isdecimal():
                message = f"{dotted(keys[: depth + 1])} is not in the spec, so it has no items"
                return Problem(OVERRIDE, dotted(keys), shown(value), message, "the whole list")
            target[index] = {}
            document.origins[dotted(keys[: depth + 1])] = (OVERRIDE, None)
        target = target[index]
    _forget(document.origins, dotted(keys))
    document.origins[dotted(keys)] = (OVERRIDE, None)
    _spell_out(document.data)
    return None


def _index(key: str) -> int:
    """The list index that a key spells; beyond every list where it spells none."""
    return int(key) if key.isascii() and key.isdecimal() and len(key) < 10 else sys.maxsize
