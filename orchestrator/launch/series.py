"""Columns of a JSONL of steps, thinned for pictures: however long a training was, a few hundred stretches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic_core import from_json

from orchestrator.core.run_directory import last_json_line

NUM_STRETCHES = 500
"""Stretches of steps that a picture tells apart: about one per pixel and a half."""
BLOCK_BYTES = 2**22
"""Read at once, as whole lines."""

Steps = NDArray[np.int64]
Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Series:
    """One metric over the steps at which it was logged."""

    steps: Steps
    """``[n]`` optimizer steps taken, each once, increasing."""
    values: Values
    """``[n]`` finite numbers."""
    num_logged: int
    """Numbers that the file has of it, not finite ones included."""
    num_not_finite: int = 0
    first_not_finite: int | None = None
    """Step of the first NaN or infinity; None where there is none."""


def read_series(path: Path, *, num_stretches: int = NUM_STRETCHES) -> dict[str, Series]:
    """Every number of a file like ``metrics.jsonl``, by name.

    Of each metric with more points than twice the stretches, the least and the greatest value of each stretch of steps
    are kept, and the very first and last: no spike is lost, whatever the length. Lines that a crash damaged, and values
    that are no numbers, are passed over. A missing file is empty.
    """
    last = last_json_line(path)
    if last is None:
        return {}
    columns: dict[str, _Column] = {}
    for rows in row_blocks(path):
        all_steps = np.array([row["step"] for row in rows], np.int64)
        for key in dict.fromkeys(chain.from_iterable(rows)):
            steps, values = _numbers(all_steps, [row.get(key) for row in rows])
            if len(steps) and key != "step":
                columns.setdefault(key, _Column(int(last["step"]), num_stretches)).add(steps, values)
    return {key: column.series() for key, column in columns.items()}


def thinned(steps: Steps, values: Values, last_step: int, num_stretches: int) -> tuple[Steps, Values]:
    """The least and the greatest value of each stretch of steps, and the first and the last of all, in their order.

    Thinning what was thinned before changes nothing, so parts of a column may be thinned as they come.

    Args:
        steps: ``[n]`` increasing.
        values: ``[n]`` finite.
        last_step: that all stretches together reach to.
        num_stretches: of the same number of steps.
    """
    if len(steps) <= 2 * num_stretches:
        return steps, values
    stretch = np.minimum(steps * num_stretches // (last_step + 1), num_stretches - 1)
    order = np.lexsort((values, stretch))
    begins = np.flatnonzero(np.diff(stretch[order], prepend=-1))
    ends = np.append(begins[1:], len(order)) - 1
    kept = np.unique(np.concatenate((order[begins], order[ends], (0, len(steps) - 1))))
    return steps[kept], values[kept]


def row_blocks(path: Path) -> Iterator[list[dict[str, Any]]]:
    """The objects of a JSONL that have a step, many at a time; lines that are damaged or cut off are passed over."""
    if not path.exists():
        return
    with path.open("rb") as stream:
        while lines := stream.readlines(BLOCK_BYTES):
            if not lines[-1].endswith(b"\n"):
                del lines[-1]
            rows = [row for row in _parsed(lines) if isinstance(row, dict) and type(row.get("step")) is int]
            if rows:
                yield rows


def _parsed(lines: Sequence[bytes]) -> list[Any]:
    try:
        # One call for many lines, and pydantic's parser, take a fifth of the time of json's one by one.
        rows: list[Any] = from_json(b"[" + b",".join(lines) + b"]")
    except ValueError:
        rows = []
    return rows if len(rows) == len(lines) else [row for line in lines for row in _one(line)]


def _one(line: bytes) -> Iterator[Any]:
    try:
        yield from_json(line)
    except ValueError:
        return


def _numbers(steps: Steps, values: Sequence[Any]) -> tuple[Steps, Values]:
    """The values that are numbers, ``"NaN"`` and the like included, and their steps."""
    try:
        numbers = np.array(values, np.float64)
        is_flat = numbers.shape == steps.shape
    except (TypeError, ValueError):
        is_flat = False
    if is_flat and None not in values:
        return steps, numbers
    kept = [place for place, value in enumerate(values) if _is_number(value)]
    return steps[kept], np.array([float(values[place]) for place in kept], np.float64)


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


class _Column:
    """Collects one metric and never holds more than a few thousand points of it."""

    def __init__(self, last_step: int, num_stretches: int) -> None:
        self._last_step = last_step
        self._num_stretches = num_stretches
        self._steps: Steps = np.empty(0, np.int64)
        self._values: Values = np.empty(0)
        self._num_logged = 0
        self._not_finite: list[int] = []
        self._num_not_finite = 0

    def add(self, steps: Steps, values: Values) -> None:
        finite = np.isfinite(values)
        self._num_logged += len(values)
        self._num_not_finite += int((~finite).sum())
        self._not_finite = self._not_finite or steps[~finite][:1].tolist()
        self._steps = np.concatenate((self._steps, steps[finite]))
        self._values = np.concatenate((self._values, values[finite]))
        self._steps, self._values = thinned(self._steps, self._values, self._last_step, self._num_stretches)

    def series(self) -> Series:
        return Series(
            steps=self._steps,
            values=self._values,
            num_logged=self._num_logged,
            num_not_finite=self._num_not_finite,
            first_not_finite=self._not_finite[0] if self._not_finite else None,
        )
