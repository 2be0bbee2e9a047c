"""The scaling law with learning-rate annealing: a whole loss curve from the rates of its steps (arXiv 2408.11029).

    L(s)  = L0 + A S1(s)^-alpha - C S2(s)
    S1(s) = sum of eta_i over i <= s                       how far the rates have carried the training
    m_i   = momentum m_{i-1} + (eta_{i-1} - eta_i)         m = 0 to the end of the warmup
    S2(s) = sum of m_i over i <= s                         how much the rates have been annealed

Four numbers fitted on one or two curves give the curve of any other schedule of the same training. Steps count from 1:
``lr[0]`` is the rate of step 1. The warmup's own rates count in S1, its rise does not count in S2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize, nnls

from orchestrator.core.errors import UsageError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

MOMENTUM = 0.999
"""The paper's lambda: annealing acts for about 1 / (1 - lambda) steps."""
HUBER_DELTA = 1e-3
"""Residual of log L beyond which the fit follows the median of a noisy curve instead of its mean."""
MIN_POINTS = 10
"""Fewest losses of a fitted curve, after its warmup."""
MAX_POINTS = 10_000
"""Longer curves are fitted on this many of their losses, evenly spread."""
START_EXPONENTS = (0.1, 0.2, 0.4, 0.8, 1.6)
LEAST_SHARE_OF_LOSS = 1e-6
"""The fit takes predictions below this share of the least loss for it, so that their logarithm exists."""


@dataclass(frozen=True, eq=False)
class Curve:
    """The rates of a training and what was observed of its loss; a schedule that nobody has run has no losses."""

    name: str
    lr: Floats
    """[num_steps] learning rate of each step, from step 1."""
    warmup_steps: int
    """Steps in which the rate rises; their losses are not fitted."""
    steps: Integers
    """[num_points] steps after which the loss is known, increasing, each in 1 to num_steps."""
    loss: Floats
    """[num_points] positive."""

    def after_warmup(self) -> Curve:
        """The same training without the losses of its warmup."""
        kept = self.steps > self.warmup_steps
        return Curve(self.name, self.lr, self.warmup_steps, self.steps[kept], self.loss[kept])


@dataclass(frozen=True)
class AnnealingLaw:
    """The law with its numbers: L = l0 + a S1^-alpha - c S2. Losses are in the unit of the fitted curves."""

    l0: float
    """Loss that more steps at a constant rate approach."""
    a: float
    alpha: float
    c: float
    """Loss that one unit of annealing takes away."""
    momentum: float = MOMENTUM

    def loss(self, lr: Floats, *, warmup_steps: int = 0) -> Floats:
        """Loss ``[num_steps]`` after each step of a schedule ``[num_steps]``."""
        s1, s2 = areas(lr, self.momentum, warmup_steps=warmup_steps)
        with np.errstate(divide="ignore"):  # a warmup from exactly 0 begins with an infinite prediction
            predicted: Floats = self.l0 + self.a * s1**-self.alpha - self.c * s2
        return predicted

    def relative_errors(self, curve: Curve) -> Floats:
        """|predicted / observed - 1| ``[num_points]`` at the losses after the warmup."""
        seen = curve.after_warmup()
        predicted = self.loss(curve.lr, warmup_steps=curve.warmup_steps)[seen.steps - 1]
        errors: Floats = np.abs(predicted / seen.loss - 1)
        return errors


def areas(lr: Floats, momentum: float, *, warmup_steps: int = 0) -> tuple[Floats, Floats]:
    """S1 and S2 after each step.

    Args:
        lr: ``[num_steps]`` rate of each step.
        momentum: lambda, in [0, 1).
        warmup_steps: leading steps whose rise is no annealing.

    Returns:
        Two arrays ``[num_steps]`` in the unit of the rate.
    """
    drops = -np.diff(lr, prepend=lr[:1])
    drops[:warmup_steps] = 0.0
    momenta = accumulate(drops.tolist(), lambda running, drop: momentum * running + drop)
    return np.cumsum(lr), np.cumsum(np.fromiter(momenta, np.float64, len(lr)))


def fit(curves: Sequence[Curve], *, momentum: float = MOMENTUM) -> AnnealingLaw:
    """The law that follows some curves best: least mean Huber loss of the residuals of log L.

    L-BFGS-B from one start for each of ``START_EXPONENTS``, at which the other three numbers are those of a
    non-negative least-squares fit. Every curve has the same weight, whatever its number of losses.

    Raises:
        UsageError: where a curve has too few losses or rates of 0, or no rate of any curve falls, which leaves ``c``
            open.
    """
    points = [_points(curve, momentum) for curve in curves]
    s1, s2, loss = (np.concatenate(column) for column in zip(*points, strict=True))
    weights = np.concatenate([np.full(len(own), 1 / len(own)) for own, _, _ in points])
    if not (s2 > 1e-9 * s1).any():
        names = ", ".join(curve.name for curve in curves)
        raise UsageError(f"CURVE: the rate of {names} never falls after the warmup; C needs a curve that is annealed.")
    # Both areas at most 1 in size: the four numbers are then of similar size whatever the unit of the rate.
    s1_unit, s2_unit = float(s1.max()), float(np.abs(s2).max())
    l0, a, alpha, c = _minimize(s1 / s1_unit, s2 / s2_unit, loss, weights)
    return AnnealingLaw(l0, a * s1_unit**alpha, alpha, c / s2_unit, momentum)


def _points(curve: Curve, momentum: float) -> tuple[Floats, Floats, Floats]:
    """S1, S2 and loss ``[num_points]`` of what is fitted of a curve."""
    seen = curve.after_warmup()
    if len(seen.steps) < MIN_POINTS:
        raise UsageError(
            f"{curve.name}: {len(seen.steps)} losses after the {curve.warmup_steps} steps of warmup; "
            f"at least {MIN_POINTS} are needed to fit a curve."
        )
    chosen = np.unique(np.linspace(0, len(seen.steps) - 1, MAX_POINTS).astype(np.int64))
    s1, s2 = areas(curve.lr, momentum, warmup_steps=curve.warmup_steps)
    at = seen.steps[chosen] - 1
    if s1[at[0]] <= 0:
        raise UsageError(f"{curve.name}: the rate is 0 up to step {at[0] + 1}; the law needs a training that moves.")
    return s1[at], s2[at], seen.loss[chosen]


def _minimize(s1: Floats, s2: Floats, loss: Floats, weights: Floats) -> tuple[float, float, float, float]:
    """The numbers l0, a, alpha, c of the best of all starts; weights ``[num_points]``."""
    least = LEAST_SHARE_OF_LOSS * loss.min()
    log_s1, log_loss = np.log(s1), np.log(loss)

    def objective(numbers: Floats) -> tuple[float, Floats]:
        l0, a, alpha, c = numbers
        power = np.exp(-alpha * log_s1)
        predicted = np.maximum(l0 + a * power - c * s2, least)
        residual = (np.log(predicted) - log_loss) / HUBER_DELTA
        size = np.abs(residual)
        value = float(weights @ np.where(size < 1, residual**2 / 2, size - 0.5))
        slope = weights * np.clip(residual, -1, 1) / (predicted * HUBER_DELTA)
        gradient = slope @ np.stack([np.ones_like(s1), power, -a * power * log_s1, -s2], axis=1)
        return value, gradient

    found = []
    for alpha in START_EXPONENTS:
        (l0, a, c), _ = nnls(np.stack([np.ones_like(s1), s1**-alpha, -s2], axis=1), loss)
        options = {"maxiter": 10_000, "maxfun": 20_000, "ftol": 1e-13, "gtol": 1e-8}
        bounds = [(0, None)] * 4
        found.append(
            minimize(objective, (l0, a, alpha, c), jac=True, method="L-BFGS-B", bounds=bounds, options=options)
        )
    l0, a, alpha, c = min(found, key=lambda result: float(result.fun)).x.tolist()
    return l0, a, alpha, c
