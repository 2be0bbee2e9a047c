"""Which recorded events a person is told while following a job, and in which words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Notice:
    """One event in words."""

    text: str
    level: Literal["info", "warning", "error"] = "info"


WORDS: dict[str, Callable[[Mapping[str, Any]], Notice]] = {
    "resumed": lambda event: Notice(f"resumed from step {event['step']:,}"),
}


def notice_of(event: Mapping[str, Any]) -> Notice | None:
    """The event in words; None for events that are only recorded."""
    row = WORDS.get(event["event"])
    return row(event) if row else None
