"""What ``orchestrator methods`` shows: every method of every seam with its arguments, read from the types."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from dataclasses import dataclass

from orchestrator.spec.check_engine import lacking
from orchestrator.spec.describe import definitions, expected, resolved
from orchestrator.spec.methods.engines import Engine
from orchestrator.spec.seams import seams
from orchestrator.spec.section import Method, Section


@dataclass(frozen=True)
class Argument:
    """One argument of a method, or one field of a section."""

    name: str
    type: str
    """What is legal, in words."""
    default: str | None
    """The default as YAML would write it on one line; None where the argument is required."""
    description: str


@dataclass(frozen=True)
class MethodRow:
    """One method."""

    seam: str
    """Dotted path of the section that chooses it."""
    name: str
    summary: str
    """One sentence."""
    is_default: bool
    """Whether it is taken where the spec names none."""
    arguments: tuple[Argument, ...]
    requires: tuple[str, ...]
    """Capabilities that the engine must provide; empty for an engine."""
    provides: dict[str, tuple[str, ...]]
    """Capabilities of an engine, by the title of each variant that differs in them; empty for everything else."""
    lacking: dict[str, tuple[str, ...]]
    """Capabilities that the method requires and an engine lacks, by the engine's title: none where the two may be
    combined. Empty for an engine."""


def methods(name: str | None = None) -> list[MethodRow]:
    """Return every method, or those of one name (several seams may use it); empty where there is none."""
    return [
        _row(path, method_name, configuration)
        for path, seam in seams().items()
        for method_name, configuration in seam.methods.items()
        if name is None or name == method_name
    ]


def engines() -> list[Engine]:
    """Return a configuration of every engine, and of every variant that differs in what it provides."""
    configurations = [method for method in seams()["engine"].methods.values() if issubclass(method, Engine)]
    return [engine for configuration in configurations for engine in configuration.configurations()]


def _row(seam: str, name: str, configuration: type[Section]) -> MethodRow:
    variants = list(configuration.configurations()) if issubclass(configuration, Engine) else []
    requires = configuration.requires if issubclass(configuration, Method) else frozenset()
    columns = engines() if issubclass(configuration, Method) else []
    return MethodRow(
        seam=seam,
        name=name,
        summary=summary(configuration),
        is_default=name == seams()[seam].default,
        arguments=tuple(argument for argument in arguments(configuration) if argument.name != "name"),
        requires=tuple(sorted(requires)),
        provides={engine.title: tuple(sorted(engine.provides)) for engine in variants},
        lacking={engine.title: tuple(sorted(lacking(requires, engine))) for engine in columns},
    )


def arguments(section: type[Section]) -> Iterator[Argument]:
    """Yield the fields of a section in their order."""
    schema = definitions()[section.__name__]
    for name, node in schema["properties"].items():
        default = None if name in schema.get("required", []) else json.dumps(node["default"], ensure_ascii=False)
        description = node.get("description") or resolved(node).get("description", "")
        yield Argument(name, expected(node), default, " ".join(description.split()))


def summary(section: type[Section]) -> str:
    """Return the first sentence of a section's docstring, with its full stop."""
    paragraph = " ".join((inspect.getdoc(section) or "").partition("\n\n")[0].split())
    sentence, stop, _ = paragraph.partition(". ")
    return sentence + "." if stop else paragraph
