"""A picture of replays: who is slow when, and how far each scheme has come."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from orchestrator.cli.straggler_rows import Row
from orchestrator.simulate.stragglers.trace import Floats

SLOWEST_SHOWN = 4.0
"""Times the fastest of a round from which on all times have the same color."""


def draw(file: Path, uncoded_s: Floats, rows: Sequence[Row]) -> None:
    """Write a picture, whose kind the ending of the file's name tells.

    Args:
        file: To write.
        uncoded_s: ``[num_rounds, num_workers]`` seconds of each worker for its own part of every batch.
        rows: The replays.
    """
    figure = Figure(figsize=(12, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    relative = uncoded_s / uncoded_s.min(axis=1, keepdims=True)
    image = left.imshow(relative.T, aspect="auto", interpolation="nearest", vmin=1, vmax=SLOWEST_SHOWN)
    figure.colorbar(image, ax=left, label="times the fastest of the round")
    left.set(xlabel="round", ylabel="worker", title="uncoded times")
    for row in rows:
        ends_s = np.cumsum(row.replay.round_s)
        right.plot(ends_s, np.arange(1, len(ends_s) + 1), label=str(row.setting))
    right.set(xlabel="seconds", ylabel="rounds", title="progress")
    right.legend()
    figure.savefig(file, dpi=120)
