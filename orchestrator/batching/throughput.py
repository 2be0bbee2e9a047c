"""How long a step takes, by its division into backwards: Pollux's model (Qiao et al., OSDI 2021), fitted to steps seen.

    accumulate = alpha + beta m
    rest       = rest1 + (K > 1) (exchange + more (K - 2))
    step       = (A - 1) accumulate + (accumulate^gamma + rest^gamma)^(1 / gamma)

with A backwards of m samples on each of K workers. ``rest`` is what happens once a step, most of it the exchange; gamma
of 1 adds it to the last backward, a large one hides it behind. Nothing is known of where the workers are.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
MAX_GAMMA = 10.0
LEAST_S = 1e-8
"""The least of each of the model's times."""
GAMMA_PULL = 0.03
"""Weight of gamma - 1 beside errors of the logarithms: without evidence nothing is hidden."""
EXCHANGE_PULL = 0.01
"""Weight of what more workers cost, in parts of the shortest step: without evidence nothing, so that they are tried."""

TOLERANCES = {"ftol": 1e-4, "xtol": 1e-4, "gtol": 1e-5}
"""Of the fit: far below what the times of steps differ by, so that it ends early where many numbers fit as well."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Steps of one division."""

    micro_size: int
    """Samples per worker and backward."""
    num_micro: int
    """Backwards per worker and step."""
    seconds: float
    """That such a step takes."""
    workers: int = 1
    """That took it together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTime:
    """The model with its numbers."""

    alpha: float
    """Seconds of a backward, whatever its size."""
    beta: float
    """Seconds for each sample of it."""
    rest: float
    """Seconds once a step, of one worker, or of the fewest that have been timed."""
    gamma: float
    """How far the rest hides behind the last backward, from 1 (not at all) to ``MAX_GAMMA``."""
    exchange: float = 0.0
    """Further seconds once a step of two workers."""
    more: float = 0.0
    """Further seconds for each worker after the second."""

    def seconds(self, micro_size: float, num_micro: int, workers: int = 1) -> float:
        """Of a step of ``num_micro`` backwards of ``micro_size`` samples on each of the workers."""
        accumulate = self.alpha + self.beta * micro_size
        rest = self.rest + (self.exchange + self.more * (workers - 2) if workers > 1 else 0.0)
        larger, smaller = max(accumulate, rest), min(accumulate, rest)
        last: float = larger * (1 + (smaller / larger) ** self.gamma) ** (1 / self.gamma)
        return (num_micro - 1) * accumulate + last


def fit(timings: Sequence[Timing], *, unknown_share: float = 0.5) -> StepTime:
    """The model with the least mean squared error of the logarithm of the seconds.

    What no step tells of costs nothing: the exchange where not both one worker and several have been timed, more of
    them where no three have, or all that were timed are as many.

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
    shortest = min(timings, key=lambda timing: timing.seconds)
    unknown = _unknown({timing.workers for timing in timings})

    def residuals(numbers: Floats) -> Floats:
        model = _of(numbers, unknown)
        predicted = [model.seconds(timing.micro_size, timing.num_micro, timing.workers) for timing in timings]
        pulled = [GAMMA_PULL * (numbers[3] - 1)]
        pulled += [EXCHANGE_PULL * cost / shortest.seconds for cost in (model.exchange, model.more)]
        return np.append(np.log(predicted) - observed, pulled)

    unit = shortest.seconds / shortest.num_micro
    bounds = ([least, least, least, 1.0, least, least], [most, most, most, MAX_GAMMA, most, most])
    found = []
    for shares in ((0.4, 0.5, 0.1), (0.1, 0.8, 0.1), (0.1, 0.3, 0.6)):
        times = (shares[0] * unit, shares[1] * unit / shortest.micro_size, shares[2] * unit, 0.1 * unit, 0.01 * unit)
        start = [min(max(math.log(value), least), most) for value in times]
        start.insert(3, 1.1)
        found.append(least_squares(residuals, start, bounds=bounds, max_nfev=500, **TOLERANCES))
    return _of(min(found, key=lambda result: float(result.cost)).x, unknown)


def _unknown(numbers: Collection[int]) -> frozenset[str]:
    """Which costs of more workers no step tells of, with these numbers timed."""
    unknown = set()
    if 1 not in numbers or len(numbers) == 1:
        unknown.add("exchange")
    if max(numbers) < 3 or len(numbers) == 1:
        unknown.add("more")
    return frozenset(unknown)


def _of(numbers: Floats, unknown: Collection[str]) -> StepTime:
    alpha, beta, rest, _, exchange, more = np.exp(numbers).tolist()
    return StepTime(
        alpha=alpha,
        beta=beta,
        rest=rest,
        gamma=float(numbers[3]),
        exchange=0.0 if "exchange" in unknown else exchange,
        more=0.0 if "more" in unknown else more,
    )
