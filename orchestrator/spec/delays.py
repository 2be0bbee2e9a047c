"""The file of ``exchange.inject.delays``: seconds that each worker waits in each round."""

from __future__ import annotations

import csv
import math
from pathlib import Path


def read_delays(path: Path) -> list[list[float]]:
    """Rows of seconds, one for each round, a number for each worker.

    Raises:
        ValueError: where the file cannot be read as such, in one clause that names the line.
    """
    rows: list[list[float]] = []
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            for number, cells in enumerate(csv.reader(stream), start=1):
                rows.append([_seconds(cell, number) for cell in cells])
                if len(rows[-1]) != len(rows[0]):
                    raise ValueError(f"line {number} has {len(rows[-1])} numbers, line 1 has {len(rows[0])}")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"cannot be read ({error})") from error
    if not rows:
        raise ValueError("is empty")
    return rows


def _seconds(cell: str, line: int) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"line {line}: {cell.strip()!r} is not a number of seconds, at least 0")
    return value
