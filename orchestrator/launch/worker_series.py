"""Each worker's time over the whole training, from ``worker_times.jsonl``: means over stretches of steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.core.worker_times import read_recent
from orchestrator.launch.series import Steps, Values, row_blocks

NUM_STRETCHES = 150
"""Stretches of steps that the means are taken over."""


@dataclass(frozen=True, slots=True, eq=False)
class WorkerSeries:
    """The mean of each worker's own computing in each stretch of steps."""

    steps: Steps
    """``[n]`` last step of each stretch, increasing."""
    seconds: Values
    """``[num_workers, n]`` seconds; NaN where none are known."""
    steps_per_stretch: int


def read_worker_series(path: Path, *, num_stretches: int = NUM_STRETCHES) -> WorkerSeries | None:
    """The times of all workers of all attempts; None where none are known.

    The first step is left out, which is no sample of the others: memory is reserved, kernels are chosen or compiled.
    """
    newest = read_recent(path, 1)
    if not newest:
        return None
    length = -(-newest[0].step // num_stretches)
    sums, counts = np.zeros((0, num_stretches)), np.zeros((0, num_stretches))
    for rows in row_blocks(path):
        for num_workers, group in groupby(filter(_has_times, rows), key=lambda row: len(row["seconds"])):
            missing = ((0, max(0, num_workers - len(sums))), (0, 0))
            sums, counts = np.pad(sums, missing), np.pad(counts, missing)
            _add(sums[:num_workers], counts[:num_workers], list(group), length)
    with np.errstate(invalid="ignore"):
        means = sums / np.where(counts > 0, counts, np.nan)
    known = np.flatnonzero((counts > 0).any(axis=0))
    if not len(known):
        return None
    return WorkerSeries(np.minimum((known + 1) * length, newest[0].step), means[:, known], length)


def _has_times(row: Mapping[str, Any]) -> bool:
    return row["step"] > 1 and isinstance(row.get("seconds"), list)


def _add(sums: Values, counts: Values, rows: Sequence[Mapping[str, Any]], length: int) -> None:
    """Add the seconds of some steps, ``[num_workers, num_stretches]`` in place."""
    seconds = np.array([row["seconds"] for row in rows], np.float64).T
    stretch = np.minimum((np.array([row["step"] for row in rows]) - 1) // length, sums.shape[1] - 1)
    known = np.isfinite(seconds)
    for worker in range(len(sums)):
        mine = known[worker]
        np.add.at(sums[worker], stretch[mine], seconds[worker, mine])
        np.add.at(counts[worker], stretch[mine], 1)
