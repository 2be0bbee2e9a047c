"""Where words go: data on stdout, messages on stderr, color only on a terminal and never with NO_COLOR."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TextIO

COLORS = {"red": "31", "green": "32", "yellow": "33", "blue": "34", "dim": "2", "bold": "1"}
PHASE_COLORS = {"succeeded": "green", "running": "blue", "failed": "red", "stopped": "yellow"}

_COLOR_CODE = re.compile(r"\x1b\[\d*m")


def emit(text: str, end: str = "\n") -> bool:
    """Print data on stdout; False once nobody reads it any more (`orchestrator list | head -1`).

    A reader that left is no error: what follows is dropped, and a job that is being followed goes on.
    """
    try:
        print(text, end=end, flush=True)
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        return False
    return True


def emit_json(value: Any) -> None:
    """Print one JSON document on stdout; paths and other values that JSON lacks become strings."""
    emit(json.dumps(value, indent=2, default=str))


def tell(message: str) -> None:
    """Print a message for a person on stderr."""
    with contextlib.suppress(BrokenPipeError):
        print(message, file=sys.stderr, flush=True)


def is_terminal(stream: TextIO) -> bool:
    """Whether the stream is a terminal that can move its cursor."""
    return stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb", "unknown")


def paint(text: str, color: str | None, stream: TextIO | None = None) -> str:
    """The text in a color of ``COLORS`` where the stream (stdout unless given) shows colors, else as it is."""
    if color is None or os.environ.get("NO_COLOR") or not is_terminal(stream or sys.stdout):
        return text
    return f"\x1b[{COLORS[color]}m{text}\x1b[0m"


def phase_text(phase: str) -> str:
    """A phase in its color."""
    return paint(phase, PHASE_COLORS.get(phase))


def plain(text: str) -> str:
    """The text without its colors."""
    return _COLOR_CODE.sub("", text)


def aligned(rows: Iterable[Sequence[str]], *, gap: str = "  ") -> list[str]:
    """Lines whose columns line up, colored cells too. Never cuts a value, so the last column may be of any length."""
    cells = [[(cell, len(plain(cell))) for cell in row] for row in rows]
    widths = [max(width for _, width in column) for column in zip(*cells, strict=True)]
    return [
        gap.join(cell + " " * (width - own) for (cell, own), width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]


def emit_fields(fields: Mapping[str, Any]) -> None:
    """Print `label  value` lines; empty values are left out, several lines of a value are indented."""
    shown = {label: str(value) for label, value in fields.items() if value is not None and value != ""}
    width = max(map(len, shown), default=0)
    for label, text in shown.items():
        emit(f"{label.ljust(width)}  " + text.replace("\n", "\n" + " " * (width + 2)))
