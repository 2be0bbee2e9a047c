"""Where the spec chooses a method by its ``name``, found in the types of `JobSpec`; nothing is listed by hand."""

from __future__ import annotations

import types
from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from orchestrator.spec.job import JobSpec
from orchestrator.spec.section import Section


@cache
def seams() -> dict[str, dict[str, type[Section]]]:
    """Return for every seam, by its dotted path, the method names and their configuration classes."""
    return dict(_seams_of(JobSpec, ""))


def _seams_of(section: type[Section], prefix: str) -> Iterator[tuple[str, dict[str, type[Section]]]]:
    for name, field in section.model_fields.items():
        members = [member for member in _members(field.annotation) if _is_section(member)]
        names = [_method_name(member) for member in members]
        if members and all(names):
            yield f"{prefix}{name}", dict(zip(names, members, strict=True))
        else:
            for member in members:
                yield from _seams_of(member, f"{prefix}{name}.")


def _members(annotation: Any) -> tuple[Any, ...]:
    """The alternatives of a type: itself, or the members of a union."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(member for part in get_args(annotation) for member in _members(part))
    return (annotation,)


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Section)


def _method_name(section: type[Section]) -> str:
    """The only legal value of its ``name`` field; empty where the section is not a method."""
    field = section.model_fields.get("name")
    if field is None or get_origin(field.annotation) is not Literal:
        return ""
    return str(get_args(field.annotation)[0])
