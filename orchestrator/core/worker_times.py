"""``worker_times.jsonl``: how long each worker computed in each step. No torch.

One object per optimizer step, in the order of the steps, each step once::

    {"step": 12, "seconds": [0.2013, 0.3358], "elements": [65536, 65536]}

The lists run over workers, and null is what nobody knows. ``seconds`` is the worker's own computing in that step,
without waiting for others; ``elements`` counts the tensor elements of its micro-batches. Where a step closes without
its stragglers, ``left`` lists these: their seconds are estimated from the share of their work that they had done.
"""

from __future__ import annotations

import json
import logging
import math
import mmap
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

MAX_BUFFERED_S = 1.0
"""Seconds after which lines are written at the latest, with the next step."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StepTimes:
    """One line of the file."""

    step: int
    """Optimizer steps taken, this one included."""
    seconds: Sequence[float | None]
    """Each worker's own computing; None where it is not known."""
    elements: Sequence[float | None]
    """Tensor elements of each worker's micro-batches; None where they are not known."""
    left: Sequence[int] = ()
    """Workers that left the step unfinished, as it closed without them: their seconds are estimates, from the share of
    their work that they had done."""


def encode_step(times: StepTimes) -> bytes:
    """One line, with seconds to the microsecond."""
    line = {
        "step": times.step,
        "seconds": [round(value, 6) if _is_known(value) else None for value in times.seconds],
        "elements": [int(value) if _is_known(value) else None for value in times.elements],
        **({"left": list(times.left)} if times.left else {}),
    }
    return json.dumps(line).encode() + b"\n"


def read_recent(path: Path, max_steps: int) -> list[StepTimes]:
    """The newest steps of one and the same number of workers, oldest first; empty where there are none."""
    found: list[StepTimes] = []
    for _, line in _lines_from_the_end(path):
        times = _parse(line)
        if times is None:
            continue
        if len(found) == max_steps or (found and len(times.seconds) != len(found[0].seconds)):
            break
        found.append(times)
    return found[::-1]


def cut_back(path: Path, last_step: int) -> None:
    """Remove the lines of steps beyond ``last_step``, and a last line that a crash left without its end."""
    if path.exists():
        os.truncate(path, _end_of_step(path, last_step))


class WorkerTimesWriter:
    """Appends steps to the file, many at a time and without waiting for the disk.

    Nothing here raises: where the file cannot be written, one warning says so and no more is written to it.

    Args:
        path: of the file; it need not exist.
        last_step: where training goes on from; what the file has of later steps is removed, as they are taken again.
    """

    def __init__(self, path: Path, *, last_step: int) -> None:
        self._path = path
        self._lines: list[bytes] = []
        self._written_at_s = time.monotonic()
        self._is_broken = False
        self._try(lambda: cut_back(path, last_step))

    def add(self, times: StepTimes) -> None:
        """Take the line of the next step; it is in the file a second later, or with ``flush``."""
        self._lines.append(encode_step(times))
        if time.monotonic() - self._written_at_s >= MAX_BUFFERED_S:
            self.flush()

    def flush(self) -> None:
        """Hand what was added to the operating system."""
        lines, self._lines = self._lines, []
        self._written_at_s = time.monotonic()
        if lines and not self._is_broken:
            self._try(lambda: self._append(b"".join(lines)))

    def _append(self, content: bytes) -> None:
        with self._path.open("ab") as stream:
            stream.write(content)

    def _try(self, action: Callable[[], None]) -> None:
        try:
            action()
        except OSError as error:
            # Going on could leave a step twice, or two lines in one.
            self._is_broken = True
            logger.warning("%s cannot be written: %s; the times of this attempt are lost", self._path.name, error)


def _is_known(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)


def _end_of_step(path: Path, last_step: int) -> int:
    """Offset behind the last line of a step up to ``last_step``; 0 where there is none."""
    for end, line in _lines_from_the_end(path):
        times = _parse(line)
        if times is not None and times.step <= last_step:
            return end
    return 0


def _lines_from_the_end(path: Path) -> Iterator[tuple[int, bytes]]:
    """Each complete line of a file and the offset behind it, the last one first; nothing where there is no file."""
    if not path.exists() or not path.stat().st_size:
        return
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        end = content.rfind(b"\n") + 1
        while end:
            start = content.rfind(b"\n", 0, end - 1) + 1
            yield end, content[start:end]
            end = start


def _parse(line: bytes) -> StepTimes | None:
    """A whole line; None for one that is damaged."""
    try:
        fields: Any = json.loads(line)
        return StepTimes(fields["step"], fields["seconds"], fields["elements"], fields.get("left", ()))
    except (ValueError, TypeError, KeyError):
        return None
