"""One problem of a job spec, the error that carries all of them, and how values and names are shown in them."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

MAX_SHOWN_CHARACTERS = 60
MAX_SHOWN_PATH_CHARACTERS = 160


@dataclass(frozen=True)
class Problem:
    """Something in a spec that a person must mend; ``str()`` of it is one line."""

    file: str
    """The file as the user named it, ``--set`` for an override, empty where there is none."""
    path: str
    """Dotted path of the field, list items by index; empty for the file as a whole."""
    value: str
    """The value as it was written, shortened; empty where there is none."""
    message: str
    """What is wrong with it, without a full stop."""
    legal: str = ""
    """What would be right."""
    suggestion: str = ""
    """The nearest legal name."""
    line: int | None = None
    """Line in the file, from 1; None where it is not known."""

    def __str__(self) -> str:
        where = self.file if self.line is None else f"{self.file}:{self.line}"
        path = shorten(self.path, MAX_SHOWN_PATH_CHARACTERS)
        field = f"{path} = {self.value}" if self.path and self.value else path
        text = ": ".join(part for part in (where, field, self.message) if part)
        if self.legal:
            text += f". Legal: {self.legal}"
        if self.suggestion:
            text += f". Did you mean '{self.suggestion}'?"
        return on_one_line(text)


class SpecError(Exception):
    """A spec that cannot be accepted, with everything that is wrong with it; ``str()`` has one line per problem."""

    exit_code = 2

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def __reduce__(self) -> tuple[type[SpecError], tuple[tuple[Problem, ...]]]:
        return SpecError, (self.problems,)


def shorten(text: str, limit: int = MAX_SHOWN_CHARACTERS) -> str:
    """Return the text, cut to `limit` characters with an ellipsis where it is longer."""
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def shown(value: Any) -> str:
    """Return a value as YAML (its JSON subset) would write it on one line, shortened."""
    # A long string is cut before it is quoted, so that a value of megabytes costs nothing.
    cut = value[: MAX_SHOWN_CHARACTERS + 1] if isinstance(value, str) else value
    return shorten(json.dumps(cut, ensure_ascii=False, default=str))


def on_one_line(text: str) -> str:
    """Return the text with line breaks, control and other unprintable characters escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def nearest(word: str, names: Iterable[str]) -> str:
    """Return the name most like the word, or an empty string where none is near."""
    by_lower_case = {name.lower(): name for name in names}
    matches = difflib.get_close_matches(word.lower(), by_lower_case, n=1, cutoff=0.65)
    return by_lower_case[matches[0]] if matches else ""


def dotted(path: Iterable[str | int]) -> str:
    """Return a path as the user sees it: ``optimizer.betas.0``."""
    return ".".join(str(part) for part in path)


def overlaps(path: str, others: Iterable[str]) -> bool:
    """Return whether one of the other dotted paths is this one, contains it or lies in it."""
    return any(path == other or path.startswith(f"{other}.") or other.startswith(f"{path}.") for other in others)
