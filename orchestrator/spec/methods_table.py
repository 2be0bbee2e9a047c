"""What ``orchestrator methods`` shows: every method of every seam with its arguments, read from the types."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from dataclasses import dataclass

from orchestrator.spec.describe import expected, resolved, root
from orchestrator.spec.seams import seams
from orchestrator.spec.section import Section


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
    provides: tuple[str, ...]
    """Capabilities of an engine; empty for everything else."""


def methods(name: str | None = None) -> list[MethodRow]:
    """Return every method, or those of one name (several seams may use it); empty where there is none."""
    return [
        MethodRow(
            seam=path,
            name=method_name,
            summary=summary(configuration),
            is_default=method_name == seam.default,
            arguments=tuple(argument for argument in arguments(configuration) if argument.name != "name"),
            requires=tuple(sorted(getattr(configuration, "requires", ()))),
            provides=tuple(sorted(getattr(configuration, "provides", ()))),
        )
        for path, seam in seams().items()
        for method_name, configuration in seam.methods.items()
        if name is None or name == method_name
    ]


def arguments(section: type[Section]) -> Iterator[Argument]:
    """Yield the fields of a section in their order."""
    schema = root() if section.__name__ not in root()["$defs"] else root()["$defs"][section.__name__]
    for name, node in schema["properties"].items():
        default = None if name in schema.get("required", []) else json.dumps(node["default"], ensure_ascii=False)
        description = node.get("description") or resolved(node).get("description", "")
        yield Argument(name, expected(node), default, " ".join(description.split()))


def summary(section: type[Section]) -> str:
    """Return the first sentence of a section's docstring, with its full stop."""
    paragraph = " ".join((inspect.getdoc(section) or "").partition("\n\n")[0].split())
    sentence, stop, _ = paragraph.partition(". ")
    return sentence + "." if stop else paragraph
