"""How many steps a loss takes with batches of different sizes, and the two batches that are both called critical.

    steps(B)   = a + b / B             samples(B) = a B + b        fitted to log steps by least squares

- McCandlish et al. (arXiv:1812.06162): b / a, least samples over least steps. There a loss takes twice the least steps
  and twice the least samples.
- Zhang et al. (arXiv:2410.21676): the batch whose steps are 20% above linear scaling from a batch B0 that still scales,
  steps(B) = 1.2 steps(B0) B0 / B, which is b / (5 a) + 1.2 B0. Of the same measurements it is 3 to 4 times smaller.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestrator.core.errors import UsageError

Floats = NDArray[np.float64]
OVERHEAD = 0.2
"""Share of steps above linear scaling at the second of the critical batches."""
MIN_POINTS = 3
LEAST_SHARE = 0.01
"""Of the fewest steps measured: below it the least steps are taken for 0."""


@dataclass(frozen=True, slots=True)
class StepsLaw:
    """steps(B) = least_steps + least_samples / B."""

    least_steps: float
    """a: steps that no batch goes below."""
    least_samples: float
    """b: samples that no batch goes below."""
    worst_error: float
    """Largest relative distance of a measured number of steps from the law."""

    def steps(self, batch: float) -> float:
        """Steps to the loss."""
        return self.least_steps + self.least_samples / batch

    def samples(self, batch: float) -> float:
        """Samples to the loss."""
        return self.steps(batch) * batch

    @property
    def mccandlish(self) -> float:
        """Least samples over least steps, in samples; inf where steps fell in proportion as far as was measured."""
        return self.least_samples / self.least_steps if self.least_steps > 0 else math.inf

    def overhead(self, linear_batch: float) -> float:
        """The batch in samples that takes 20% more steps than linear scaling from ``linear_batch``."""
        if self.least_steps <= 0:
            return math.inf
        return OVERHEAD * self.mccandlish + (1 + OVERHEAD) * linear_batch


def fit_steps(batches: Sequence[float], steps: Sequence[float]) -> StepsLaw:
    """The law with least squares of log steps; both numbers at least 0.

    Args:
        batches: in samples, different, at least ``MIN_POINTS``.
        steps: that each takes to one and the same loss.

    Raises:
        UsageError: where there are too few.
    """
    from scipy.optimize import least_squares

    if len(set(batches)) < MIN_POINTS:
        raise UsageError(f"{len(set(batches))} different batches; at least {MIN_POINTS} are needed to fit the law.")
    sizes, counts = np.asarray(batches, float), np.asarray(steps, float)
    unit_steps, unit_samples = float(counts.min()), float((counts * sizes).min())

    def residuals(numbers: Floats) -> Floats:
        found: Floats = np.log(numbers[0] * unit_steps + numbers[1] * unit_samples / sizes) - np.log(counts)
        return found

    tiny = 1e-9
    result = least_squares(residuals, [0.5, 1.0], bounds=([tiny, tiny], [np.inf, np.inf]), xtol=1e-14, ftol=1e-14)
    a, b = result.x.tolist()
    # A share this small of the fewest steps cannot be told from none.
    least_steps = a * unit_steps if a > LEAST_SHARE else 0.0
    return StepsLaw(least_steps, b * unit_samples, float(np.abs(np.expm1(residuals(result.x))).max()))


def power_law(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Factor and exponent of y = factor x^exponent, by least squares of log y."""
    exponent, log_factor = np.polyfit(np.log(x), np.log(y), 1).tolist()
    return math.exp(log_factor), exponent


@dataclass(frozen=True, eq=False)
class LossCurve:
    """The losses of one batch's steps."""

    batch: int
    samples: Floats
    """[num_steps] samples seen before each step, since the branches parted: the weights that its loss is of."""
    loss: Floats
    """[num_steps] mean loss of each step's samples."""

    def smoothed(self, half_life: float) -> tuple[Floats, Floats]:
        """Averages ``[num_steps]`` over the steps so far, of samples and of losses.

        A step's weight halves with so many samples seen since. Both are averaged alike, so a loss that falls along a
        straight line still does, through the same points.
        """
        seen = loss = weight = before = 0.0
        averages = []
        for at, value in zip(self.samples.tolist(), self.loss.tolist(), strict=True):
            kept = 0.5 ** ((at - before) / half_life)
            seen, loss, weight, before = seen * kept + at, loss * kept + value, weight * kept + 1, at
            averages.append((seen / weight, loss / weight))
        positions, losses = np.array(averages).T
        return positions, losses


def steps_to_common_loss(curves: Sequence[LossCurve], half_life: float) -> tuple[float, list[float]]:
    """The lowest loss that all curves reach, and the steps that each takes to it, fractions by straight lines.

    Args:
        curves: of the same training with different batches.
        half_life: of the smoothing, in samples.

    Raises:
        UsageError: where that loss is not below the first ones.
    """
    smoothed = [curve.smoothed(half_life) for curve in curves]
    target = max(float(losses.min()) for _, losses in smoothed)
    found = []
    for curve, (positions, losses) in zip(curves, smoothed, strict=True):
        first = int(np.argmax(losses <= target))
        if first == 0:
            raise UsageError(
                f"the branch with batch {curve.batch} begins at the loss that another one ends at ({target:.4g}); "
                "longer branches or smaller factors tell them apart."
            )
        # From the last step above it to the first one that is not.
        falling_losses, positions_then = losses[[first, first - 1]], positions[[first, first - 1]]
        found.append(float(np.interp(target, falling_losses, positions_then)) / curve.batch)
    return target, found
