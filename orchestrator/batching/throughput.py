"""How long a step takes, by its division into backwards: Pollux's model (Qiao et al., OSDI 2021), fitted to steps seen.

    accumulate = alpha + beta m
    step       = (A - 1) accumulate + (accumulate^gamma + rest^gamma)^(1 / gamma)

with A backwards of m samples on each worker. ``rest`` is what happens once a step, most of it the exchange; gamma of 1
adds it to the last backward, a large one hides it behind. The number of workers is given and not part of the model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
MAX_GAMMA = 10.0
LEAST_S = 1e-8
"""The least of each of the model's times."""
GAMMA_PULL = 0.03
"""Weight of gamma - 1 beside errors of the logarithms: without evidence nothing is hidden."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Steps of one division."""

    micro_size: int
    """Samples per worker and backward."""
    num_micro: int
    """Backwards per worker and step."""
    seconds: float
    """That such a step takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTime:
    """The model with its numbers."""

    alpha: float
    """Seconds of a backward, whatever its size."""
    beta: float
    """Seconds for each sample of it."""
    rest: float
    """Seconds once a step."""
    gamma: float
    """How far the rest hides behind the last backward, from 1 (not at all) to ``MAX_GAMMA``."""

    def seconds(self, micro_size: float, num_micro: int) -> float:
        """Of a step of ``num_micro`` backwards of ``micro_size`` samples on each worker."""
        accumulate = self.alpha + self.beta * micro_size
        larger, smaller = max(accumulate, self.rest), min(accumulate, self.rest)
        last: float = larger * (1 + (smaller / larger) ** self.gamma) ** (1 / self.gamma)
        return (num_micro - 1) * accumulate + last


def fit(timings: Sequence[Timing], *, unknown_share: float = 0.5) -> StepTime:
    """The model with the least mean squared error of the logarithm of the seconds.

    Args:
        timings: of different divisions, at least one.
        unknown_share: of a single division it is not known what grows with the batch; the share of a backward that is
            taken to do so, in [0, 1].
    """
    from scipy.optimize import least_squares

    if len(timings) == 1:
        (only,) = timings
        backward = only.seconds / only.num_micro
        beta = unknown_share * backward / only.micro_size
        return StepTime(alpha=(1 - unknown_share) * backward, beta=beta, rest=LEAST_S, gamma=1.0)
    observed = np.log([timing.seconds for timing in timings])
    least, most = math.log(LEAST_S), math.log(10 * max(timing.seconds for timing in timings))

    def residuals(numbers: Floats) -> Floats:
        model = _of(numbers)
        predicted = np.log([model.seconds(timing.micro_size, timing.num_micro) for timing in timings])
        return np.append(predicted - observed, GAMMA_PULL * (numbers[3] - 1))

    shortest = min(timings, key=lambda timing: timing.seconds)
    unit = shortest.seconds / shortest.num_micro
    bounds = ([least, least, least, 1.0], [most, most, most, MAX_GAMMA])
    found = []
    for shares in ((0.4, 0.5, 0.1), (0.1, 0.8, 0.1), (0.1, 0.3, 0.6)):
        times = (shares[0] * unit, shares[1] * unit / shortest.micro_size, shares[2] * unit)
        start = [*(min(max(math.log(value), least), most) for value in times), 1.1]
        found.append(least_squares(residuals, start, bounds=bounds, max_nfev=500))
    return _of(min(found, key=lambda result: float(result.cost)).x)


def _of(numbers: Floats) -> StepTime:
    alpha, beta, rest = np.exp(numbers[:3]).tolist()
    return StepTime(alpha=alpha, beta=beta, rest=rest, gamma=float(numbers[3]))
