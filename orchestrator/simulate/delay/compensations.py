"""What is done about delays, in NumPy over whole grids of settings: the mathematics of the exchange's compensations.

Arrays are ``[num_rates, num_momenta, num_weights]``, one training for each rate and momentum; rates are
``[num_rates, 1, 1]``, momenta ``[1, num_momenta, 1]``. A velocity is that of SGD: ``v <- m v + g; w <- w - lr v``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestrator.core.staleness import Staleness

Floats = NDArray[np.float64]


@dataclass(slots=True, kw_only=True)
class Trainings:
    """The present state of all trainings of a grid."""

    rates: Floats
    momenta: Floats
    weights: Floats
    velocities: Floats
    """One for all workers, or one for each, ``[num_velocities, num_rates, num_momenta, num_weights]``."""
    staleness: Staleness
    """Of the push that comes next, and of all before."""


class Compensation:
    """Does nothing; the others change what they need to."""

    is_homogeneous = True
    """Whether weights and velocity of twice the size take steps of twice the size."""
    has_velocity_per_worker = False
    """Whether each worker has a velocity of its own."""

    def published(self, now: Trainings) -> Floats:
        """The weights that a worker which begins now computes at."""
        return now.weights

    def corrected(self, gradient: Floats, read: Floats, now: Trainings) -> Floats:
        """The gradient to step with, of one that was computed at the weights ``read`` and may be changed in place."""
        return gradient

    def stepped(self, now: Trainings, velocity: Floats) -> None:
        """A step has been taken with this velocity."""

    def rescale(self, factors: Floats) -> None:
        """Weights and velocities have been multiplied by ``[num_rates, num_momenta, 1]``."""


class StalenessAware(Compensation):
    """Divides a gradient by its delay (arXiv 1511.05950)."""

    def corrected(self, gradient: Floats, read: Floats, now: Trainings) -> Floats:
        """See ``Compensation``."""
        gradient /= max(1, now.staleness.delay)
        return gradient


class DcAsgd(Compensation):
    """``g + strength g^2 (w_now - w_read)``, with a constant strength (DC-ASGD, arXiv 1609.08326)."""

    is_homogeneous = False
    strength = 0.04

    def corrected(self, gradient: Floats, read: Floats, now: Trainings) -> Floats:
        """See ``Compensation``."""
        gradient += self.strength * gradient * gradient * (now.weights - read)
        return gradient


class GapAware(Compensation):
    """``g / (1 + |w_now - w_read| / C)``, C a usual step: lr x root mean square of the velocity (arXiv 1909.10802)."""

    decay = 0.999
    eps = 1e-8
    """Relative to the present size of a training."""

    def __init__(self) -> None:
        self._mean_square: Floats = np.zeros(())
        self._bias = 1.0

    def corrected(self, gradient: Floats, read: Floats, now: Trainings) -> Floats:
        """See ``Compensation``."""
        if self._bias < 1:
            usual = now.rates * (np.sqrt(self._mean_square / (1 - self._bias)) + self.eps)
            gradient /= 1 + np.abs(now.weights - read) / usual
        return gradient

    def stepped(self, now: Trainings, velocity: Floats) -> None:
        """See ``Compensation``."""
        self._mean_square = self.decay * self._mean_square + (1 - self.decay) * velocity * velocity
        self._bias *= self.decay

    def rescale(self, factors: Floats) -> None:
        """See ``Compensation``."""
        self._mean_square = self._mean_square * factors**2


class DanaZero(Compensation):
    """A velocity for each worker, and weights where all of them will have moved them to (arXiv 1907.11612)."""

    has_velocity_per_worker = True

    def published(self, now: Trainings) -> Floats:
        """See ``Compensation``."""
        ahead: Floats = now.weights - now.rates * now.momenta * now.velocities.sum(axis=0)
        return ahead


class WeightPrediction(Compensation):
    """Weights moved ahead by the mean delay, as the velocity fades without gradients."""

    def published(self, now: Trainings) -> Floats:
        """See ``Compensation``."""
        m, steps = now.momenta, now.staleness.mean
        ahead: Floats = now.weights - now.rates * now.velocities[0] * (m - m ** (steps + 1)) / (1 - m)
        return ahead


COMPENSATIONS: Mapping[str, Callable[[], Compensation]] = {
    "staleness_aware": StalenessAware,
    "dc_asgd": DcAsgd,
    "gap_aware": GapAware,
    "dana_zero": DanaZero,
    "weight_prediction": WeightPrediction,
}
"""By the name that a job spec has for each."""
