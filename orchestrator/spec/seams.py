"""Where the spec chooses a method by its ``name``, found in the types of `JobSpec`; nothing is listed by hand."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from orchestrator.spec.job import JobSpec
from orchestrator.spec.section import Section


@dataclass(frozen=True)
class Seam:
    """One place where a method is chosen."""

    methods: Mapping[str, type[Section]]
    """Configuration class of every method, by name."""
    default: str
    """Name of the method that is taken where the spec names none; empty where that is no method."""


@cache
def seams() -> dict[str, Seam]:
    """Return the seams by their dotted path in the spec: ``optimizer``, ``batch.controller``, ..."""
    return dict(_seams_of(JobSpec, ""))


def _seams_of(section: type[Section], prefix: str) -> Iterator[tuple[str, Seam]]:
    for name, field in section.model_fields.items():
        members = sections_in(field.annotation)
        methods = members or items_in(field.annotation)
        names = [_method_name(member) for member in methods]
        if methods and all(names):
            default = getattr(field.get_default(), "name", "")
            yield f"{prefix}{name}", Seam(dict(zip(names, methods, strict=True)), default)
        for member in members:
            yield from _seams_of(member, f"{prefix}{name}.")


def sections_in(annotation: Any) -> list[type[Section]]:
    """Return the sections among the alternatives of a field's type."""
    if get_origin(annotation) is Annotated:
        return sections_in(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [section for part in get_args(annotation) for section in sections_in(part)]
    return [annotation] if isinstance(annotation, type) and issubclass(annotation, Section) else []


def items_in(annotation: Any) -> list[type[Section]]:
    """The sections among the items of a list."""
    if get_origin(annotation) is Annotated:
        return items_in(get_args(annotation)[0])
    return sections_in(get_args(annotation)[0]) if get_origin(annotation) is tuple else []


def _method_name(section: type[Section]) -> str:
    """The only legal value of its ``name`` field; empty where the section is not a method."""
    field = section.model_fields.get("name")
    if field is None or get_origin(field.annotation) is not Literal:
        return ""
    return str(get_args(field.annotation)[0])
