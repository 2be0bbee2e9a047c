"""The small language in which tables say what another library's configuration may hold, and the check by them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.spec.problems import Problem, nearest, shorten, shown

AUTO = "auto"
MAX_LEGAL_CHARACTERS = 400


@dataclass(frozen=True)
class Value:
    """A key whose value passes through once it has the right type."""

    legal: str
    """What is legal, in words."""
    accepts: Callable[[Any], bool]


@dataclass(frozen=True)
class Refused:
    """A key that only harmless values may be given."""

    reason: str
    """Why, without a full stop."""
    harmless: tuple[Any, ...] = ()
    """Values that change nothing, besides null and "auto"."""
    instead: str = "leave it out"


@dataclass(frozen=True)
class Decided:
    """A key that rules decide on, most of which compare its value with the job's."""

    legal: str = "what the job says"
    """What is legal, in words."""


Entry = Value | Refused | Decided | Mapping[str, "Entry"]
Keys = Mapping[str, Entry]


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number, however it is written: 5e8 is."""
    return is_number(value) and value == int(value)


def is_number(value: Any) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def one_of(*choices: Any) -> Value:
    """One of a few values."""
    return Value(", ".join(str(choice) for choice in choices), lambda value: value in choices)


FLAG = Value("true or false", lambda value: isinstance(value, bool))
AMOUNT = Value("a number >= 0", lambda value: is_number(value) and value >= 0)
COUNT = Value("an integer >= 0", lambda value: is_whole(value) and value >= 0)
POSITIVE_COUNT = Value("an integer >= 1", lambda value: is_whole(value) and value >= 1)
TEXT = Value("a string", lambda value: isinstance(value, str))
TEXTS = Value(
    "a list of strings", lambda value: isinstance(value, list) and all(isinstance(item, str) for item in value)
)
DECIDED = Decided()


def is_left_to_the_job(value: Any) -> bool:
    """Whether a value says nothing of its own: null or "auto"."""
    return value is None or value == AUTO


def key_problems(values: Any, keys: Keys, path: str) -> Iterator[Problem]:
    """Yield everything in a section that its table does not allow, at every level.

    Args:
        values: The section as the user wrote it.
        keys: The table of the section.
        path: Dotted path of the section.
    """
    if is_left_to_the_job(values):
        return
    if not isinstance(values, Mapping):
        yield Problem("", path, shown(values), "is not a mapping", "a mapping of keys and values")
        return
    known = [key for key, entry in keys.items() if not isinstance(entry, Refused) or entry.harmless]
    for key, value in values.items():
        here = f"{path}.{key}"
        if key in keys:
            yield from _entry_problems(value, keys[key], here)
        else:
            legal = shorten(", ".join(known), MAX_LEGAL_CHARACTERS)
            yield Problem("", here, shown(value), "unknown key", legal, nearest(str(key), known))


def _entry_problems(value: Any, entry: Entry, path: str) -> Iterator[Problem]:
    if isinstance(entry, Mapping):
        yield from key_problems(value, entry, path)
    elif is_left_to_the_job(value) or isinstance(entry, Decided):
        return
    elif isinstance(entry, Refused):
        if not any(same(value, harmless) for harmless in entry.harmless):
            yield Problem("", path, shown(value), entry.reason, entry.instead)
    elif not entry.accepts(value):
        yield Problem("", path, shown(value), "not legal", f'{entry.legal}, or "{AUTO}"')


@dataclass(frozen=True)
class Rule:
    """A value that may only repeat what the job says."""

    path: str
    """Dotted path in the configuration."""
    legal: tuple[Any, ...]
    """Values that contradict nothing, besides null and "auto"."""
    message: str
    """What the job says, without a full stop."""


def rule_problems(values: Any, rules: Iterable[Rule], path: str) -> Iterator[Problem]:
    """Yield a problem for every value that contradicts the job.

    Args:
        values: The configuration as the user wrote it.
        rules: What the job says.
        path: Dotted path of the configuration.
    """
    for rule in rules:
        value = value_at(values, rule.path)
        if not is_left_to_the_job(value) and not any(same(value, choice) for choice in rule.legal):
            legal = ", ".join(shown(choice) for choice in (AUTO, *rule.legal))
            yield Problem("", f"{path}.{rule.path}", shown(value), rule.message, legal)


def value_at(values: Any, path: str) -> Any:
    """The value at a dotted path; None where there is none."""
    for key in path.split("."):
        values = values.get(key) if isinstance(values, Mapping) else None
    return values


def same(value: Any, other: Any) -> bool:
    """Equality in which a number is not a boolean: 1 is not true."""
    return isinstance(value, bool) == isinstance(other, bool) and bool(value == other)


def without_defaults(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values without what says nothing, at every level."""
    return {
        key: without_defaults(value) if isinstance(value, Mapping) else value
        for key, value in values.items()
        if not is_left_to_the_job(value)
    }
