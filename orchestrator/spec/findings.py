"""Turns pydantic's errors into findings in the user's own terms: where, what was found, what is legal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from orchestrator.spec.describe import alternatives, choices, expected, json_types, locate, nearest_field
from orchestrator.spec.job import AnyJobSpec, JobSpec, ScriptJobSpec
from orchestrator.spec.problems import nearest, shown

Path = tuple[str | int, ...]

_WRONG_RANGE = ("greater_than", "less_than", "multiple_of", "too_long", "too_short", "string_too", "string_pattern")


@dataclass(frozen=True)
class Finding:
    """One thing that the types of the spec refuse."""

    path: Path
    """Keys and list indices, as the user wrote them."""
    kind: str
    """pydantic's name of the error."""
    value: str
    message: str
    legal: str
    suggestion: str


def findings(error: ValidationError, kind: type[AnyJobSpec]) -> list[Finding]:
    """Return what the validation of a kind of spec found, one finding for each place."""
    found: dict[Path, Finding] = {}
    for details in error.errors(include_url=False):
        finding = _finding(details, kind)
        found.setdefault(finding.path, finding)
    # Where a value may be a string or a list, a bad list item is also reported as "not a string".
    inner = {path[:length] for path in found for length in range(len(path))}
    return [finding for path, finding in found.items() if path not in inner or finding.kind == "value_error"]


def _finding(details: ErrorDetails, kind_of_spec: type[AnyJobSpec]) -> Finding:
    kind, value, location = details["type"], details["input"], details["loc"]
    if kind == "extra_forbidden":
        return _unknown_key(location, value, kind_of_spec)
    path, node = locate(location, kind_of_spec)
    if kind == "union_tag_not_found" and "name" not in value:
        return Finding((*path, "name"), "missing", "", "missing", ", ".join(choices(node)), "")
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        return _not_a_choice((*path, "name"), value["name"], choices(node))
    if kind == "literal_error":
        return _not_a_choice(path, value, choices(node))
    if kind == "missing":
        instead = ", or a script in its place" if path == ("recipe",) else ""
        return Finding(path, kind, "", "missing", expected(node) + instead, "")
    if kind == "value_error":
        return Finding(path, kind, "", str(details["ctx"]["error"]), "", "")
    message = _wrong_type(value, json_types(node)) if kind.endswith("_type") else _WRONG.get(kind, "not legal")
    return Finding(path, kind, shown(value), message, expected(node), "")


_WRONG = {
    "greater_than": "out of range",
    "greater_than_equal": "out of range",
    "less_than": "out of range",
    "less_than_equal": "out of range",
    "too_short": "too few entries",
    "too_long": "too many entries",
    "string_too_short": "too short",
    "string_too_long": "too long",
    "string_pattern_mismatch": "not of the right form",
    "none_required": "not null",
}


def _unknown_key(location: Path, value: Any, kind: type[AnyJobSpec]) -> Finding:
    section, node = locate(location[:-1], kind)
    key = str(location[-1])
    siblings = [name for member in alternatives(node) for name in member.get("properties", {})]
    legal = ", ".join([*siblings, "base"] if not section else siblings)
    if not section and key in JobSpec.model_fields:
        message = "belongs to jobs with a recipe; a script decides this itself"
        return Finding((key,), "extra_forbidden", "", message, legal, "")
    if not section and key in ScriptJobSpec.model_fields:
        return Finding((key,), "extra_forbidden", "", "stands beside recipe", "recipe or script, not both", "")
    suggestion = nearest_field(key, siblings, kind)
    return Finding((*section, key), "extra_forbidden", shown(value), "unknown key", legal, suggestion)


def _not_a_choice(path: Path, value: Any, legal: list[Any]) -> Finding:
    """A value that is none of an enumeration's, or a method that does not exist."""
    suggestion = nearest(value, [str(name) for name in legal]) if isinstance(value, str) else ""
    is_method = path[-1] == "name"
    seam = next((part for part in reversed(path[:-1]) if isinstance(part, str)), "")
    message = f"unknown {seam.replace('_', ' ')}" if is_method else "not one of the legal values"
    return Finding(path, "not_a_choice", shown(value), message, ", ".join(map(str, legal)), suggestion)


def _wrong_type(value: Any, legal_types: set[str]) -> str:
    """What a value is, and how to write what was probably meant."""
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        if legal_types & {"integer"} and value == int(value):
            return f"a number with a fraction or exponent; write {int(value)}"
        return "a number; write it in quotes" if "string" in legal_types else "a number"
    if isinstance(value, str):
        if legal_types & {"integer", "number"} and _is_number(value):
            return "a string; write it without quotes"
        if "boolean" in legal_types and value.lower() in _BOOLEANS:
            return f"a string; write {_BOOLEANS[value.lower()]}"
        return "a string"
    if value is None:
        return "null"
    return "a mapping" if isinstance(value, dict) else "a list"


_BOOLEANS = {"yes": "true", "on": "true", "true": "true", "no": "false", "off": "false", "false": "false"}


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
