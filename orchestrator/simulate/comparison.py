"""How a fitted law stands beside a curve: its errors where losses are known, and the loss it ends with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.simulate.annealing_law import AnnealingLaw, Curve

FINAL_SHARE = 0.01
"""The final loss is the mean over this last share of the steps, as the loss of one step is noisy."""
SAME_PEAK = 0.01
"""Relative difference of two peak rates that a law may bridge."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Errors:
    """Relative errors |predicted / observed - 1| over the losses after the warmup."""

    mean: float
    median: float
    max: float
    points: int
    """Losses compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One curve beside the law."""

    name: str
    steps: int
    warmup_steps: int
    peak_lr: float
    final_predicted: float
    """Mean of the prediction over the last ``FINAL_SHARE`` of the steps, where losses are known at theirs."""
    final_observed: float | None
    """Mean of the losses there; None where none is known."""
    final_error: float | None
    """final_predicted / final_observed - 1."""
    errors: Errors | None
    """None where no loss after the warmup is known."""


def compare(law: AnnealingLaw, curve: Curve) -> Comparison:
    """The law's prediction of a curve, and how far it is off where losses are known."""
    seen = curve.after_warmup()
    is_known = len(seen.steps) > 0
    steps = seen.steps if is_known else np.arange(1, len(curve.lr) + 1)
    is_final = steps > (1 - FINAL_SHARE) * steps[-1]
    predicted = law.loss(curve.lr, warmup_steps=curve.warmup_steps)[steps[is_final] - 1]
    final_predicted = float(predicted.mean())
    final_observed = float(seen.loss[is_final].mean()) if is_known else None
    return Comparison(
        name=curve.name,
        steps=len(curve.lr),
        warmup_steps=curve.warmup_steps,
        peak_lr=float(curve.lr.max()),
        final_predicted=final_predicted,
        final_observed=final_observed,
        final_error=final_predicted / final_observed - 1 if final_observed else None,
        errors=_errors(law, curve) if is_known else None,
    )


def doubts(law: AnnealingLaw, fitted: Sequence[Curve], predicted: Sequence[Curve]) -> Iterator[str]:
    """Sentences on why the predictions may be worth little; none where nothing speaks against them."""
    if law.l0 == 0:
        yield "L0 is 0, its least value: the fitted curves are too short to show where the loss levels off."
    if law.c == 0:
        yield "C is 0, its least value: the loss of the fitted curves does not get lower where the rate falls."
    peaks = [float(curve.lr.max()) for curve in fitted]
    for curve in predicted:
        peak = float(curve.lr.max())
        if not min(peaks) * (1 - SAME_PEAK) <= peak <= max(peaks) * (1 + SAME_PEAK):
            shown = " and ".join(f"{value:g}" for value in sorted(set(peaks)))
            yield f"{curve.name}: its peak rate is {peak:g}, that of the fitted curves {shown}; the law holds for one."


def _errors(law: AnnealingLaw, curve: Curve) -> Errors:
    errors = law.relative_errors(curve)
    return Errors(
        mean=float(errors.mean()), median=float(np.median(errors)), max=float(errors.max()), points=len(errors)
    )
