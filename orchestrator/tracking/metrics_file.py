"""``metrics.jsonl``: how one logged step becomes a line, and how a resumed attempt cuts the lines it will write again.

The file is the queue that MLflow is fed from. JSON has no NaN and no infinities, so those are the strings ``"NaN"``,
``"Infinity"`` and ``"-Infinity"``, which Python's ``float`` reads back.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from orchestrator.core.run_directory import RunDirectory
from orchestrator.tracking.client import clean_key
from orchestrator.tracking.cursor import Cursor

RESERVED = frozenset({"step", "time"})


class Point(NamedTuple):
    """One value of one metric, as MLflow wants it."""

    key: str
    value: float
    time_ms: int
    step: int


class Stretch(NamedTuple):
    """Some lines of the file."""

    points: list[Point]
    end: int
    """Offset behind the last line, in bytes."""
    step: int
    """Step of the last line; -1 where there is no line."""


def json_value(value: Any) -> Any:
    """The nearest thing that JSON can say: numbers as they are, NaN and infinities as strings, the rest as text."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, Mapping):
        return {str(key): json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(item) for item in value]
    try:
        number = float(value)
    except Exception:  # whatever a foreign type raises, text is still better than a lost line
        return str(value)
    if math.isfinite(number):
        return number
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"


def encode_line(step: int, time_s: float, metrics: Mapping[str, Any]) -> bytes:
    """One line: ``step``, ``time`` in seconds since 1970, then the metrics under names that MLflow takes."""
    line: dict[str, Any] = {"step": int(step), "time": time_s}
    for name, value in metrics.items():
        key = clean_key(name)
        line[f"{key}_" if key in RESERVED else key] = json_value(value)
    return json.dumps(line).encode() + b"\n"


def read_stretch(path: Path, offset: int, max_points: int) -> Stretch:
    """Complete lines from ``offset`` until at least ``max_points`` points are there or the file ends."""
    points: list[Point] = []
    step = -1
    if path.exists():
        with path.open("rb") as stream:
            stream.seek(offset)
            while len(points) < max_points and (line := stream.readline()).endswith(b"\n"):
                offset += len(line)
                if fields := _parse(line):
                    step = fields["step"]
                    points += _points(fields)
    return Stretch(points, offset, step)


def is_line_start(path: Path, offset: int) -> bool:
    """Whether a line begins, or the file ends, at this offset."""
    if offset == 0:
        return True
    if not path.exists():
        return False
    with path.open("rb") as stream:
        stream.seek(offset - 1)
        return stream.read(1) == b"\n"


def cut_half_line(path: Path) -> None:
    """Remove a last line that a crash left without its end."""
    if not path.exists():
        return
    with path.open("rb+") as stream:
        position = end = stream.seek(0, os.SEEK_END)
        while position:
            stream.seek(position - 1)
            if stream.read(1) == b"\n":
                break
            position -= 1
        if position < end:
            stream.truncate(position)


def trim_metrics(run_directory: RunDirectory, last_step: int) -> int:
    """Remove the lines of steps beyond ``last_step`` before training goes on from there; return how many went.

    Atomic: a crash leaves the old or the new file. What MLflow already has of the removed steps stays there and is
    not sent again when the steps are run again.
    """
    path = run_directory.metrics_file
    if not path.exists():
        return 0
    cursor = Cursor.load(run_directory)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    num_removed = position = kept_before_cursor = 0
    with path.open("rb") as source, temporary.open("wb") as target:
        for line in source:
            position += len(line)
            fields = _parse(line)
            if fields is None or fields["step"] > last_step:
                num_removed += 1
            else:
                target.write(line)
                kept_before_cursor += len(line) if position <= cursor.offset else 0
        target.flush()
        os.fsync(target.fileno())
    # The cursor first: one that is too low only rereads lines, one that is too high would skip some.
    if kept_before_cursor < cursor.offset:
        cursor.advanced(kept_before_cursor, cursor.step).save(run_directory)
    os.replace(temporary, path)
    return num_removed


def _parse(line: bytes) -> dict[str, Any] | None:
    """The fields of a whole line; None for a line that is cut off or damaged."""
    try:
        fields = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return fields if isinstance(fields, dict) and fields.keys() >= RESERVED else None


def _points(fields: Mapping[str, Any]) -> list[Point]:
    """The points of one line; values that are no numbers are left out."""
    points = []
    for key, value in fields.items():
        if key in RESERVED:
            continue
        try:
            points.append(Point(key, float(value), int(fields["time"] * 1000), fields["step"]))
        except (TypeError, ValueError, OverflowError):
            continue
    return points
