"""A picture of the critical batch: steps to a loss over the batch, and the law through them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from orchestrator.simulate.critical_batch import StepsLaw


def draw(file: Path, batches: Sequence[int], steps: Sequence[float], law: StepsLaw) -> None:
    """Write a picture, whose kind the ending of the file's name tells.

    Args:
        file: To write.
        batches: That were tried, in samples, increasing.
        steps: Of each to the common loss.
        law: Fitted to them.
    """
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    sizes = np.geomspace(batches[0], batches[-1], 100)
    axes.loglog(batches, steps, "o", label="measured")
    axes.loglog(sizes, [law.steps(size) for size in sizes], label="a + b / batch")
    axes.loglog(sizes, law.steps(batches[0]) * batches[0] / sizes, "--", color="grey", label="linear scaling")
    for name, batch in (("McCandlish", law.mccandlish), ("20% overhead", law.overhead(batches[0]))):
        if math.isfinite(batch):
            axes.axvline(batch, linestyle=":", color="grey")
            axes.annotate(name, (batch, max(steps)), rotation=90, va="top", ha="right")
    axes.set(xlabel="batch (samples)", ylabel="steps to the loss")
    axes.legend()
    figure.savefig(file, dpi=120)
