"""The order of an asynchronous training's pushes: ``pushes.csv`` of a job, or what the simulator writes. No torch.

One line for each push that an update took, in the order of the updates::

    update,worker,chunk,read_version
    0,3,0,0

``update`` counts the updates before this one, which is the version of the weights that it is applied to; ``chunk``
counts pieces of the training's samples, each as large as a push; ``read_version`` is that of the weights that the
gradient was computed at. With several pushes to an update several lines share its number.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

HEADER = ("update", "worker", "chunk", "read_version")


@dataclass(frozen=True, slots=True)
class OrderedPush:
    """One push."""

    update: int
    worker: int
    chunk: int
    read_version: int

    @property
    def delay(self) -> int:
        """Updates between the weights that it was computed at and those that it is applied to."""
        return self.update - self.read_version


def read_order(path: Path) -> list[OrderedPush]:
    """The pushes of a file.

    Raises:
        ValueError: where it cannot be read as such, in one clause that names the line.
    """
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.reader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"cannot be read ({error})") from error
    if not rows or tuple(rows[0]) != HEADER:
        raise ValueError(f"does not begin with the line {','.join(HEADER)}")
    order = [_push(row, number) for number, row in enumerate(rows[1:], start=2)]
    _check(order)
    return order


def write_order(path: Path, order: Iterable[OrderedPush]) -> None:
    """Write a file that ``read_order`` reads."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(HEADER)
        writer.writerows(astuple(push) for push in order)


def _push(row: Sequence[str], line: int) -> OrderedPush:
    try:
        numbers = [int(cell) for cell in row]
    except ValueError:
        numbers = []
    if len(numbers) != len(HEADER) or min(numbers) < 0:
        raise ValueError(f"line {line} is not four whole numbers of at least 0")
    push = OrderedPush(*numbers)
    if push.delay < 0:
        raise ValueError(f"line {line}: version {push.read_version} does not exist yet at update {push.update}")
    return push


def _check(order: Sequence[OrderedPush]) -> None:
    """Updates follow each other, and a worker computes one push after the other, at weights that do not get older."""
    expected, last_read = 0, dict[int, int]()
    chunks = set()
    for line, push in enumerate(order, start=2):
        if push.update not in (expected - 1, expected) or (push.update == -1):
            raise ValueError(f"line {line}: update {push.update} does not follow {expected - 1}")
        expected = push.update + 1
        if push.chunk in chunks:
            raise ValueError(f"line {line}: chunk {push.chunk} is there twice")
        chunks.add(push.chunk)
        if push.read_version < last_read.get(push.worker, 0):
            raise ValueError(f"line {line}: worker {push.worker} reads an older version than before")
        last_read[push.worker] = push.read_version
