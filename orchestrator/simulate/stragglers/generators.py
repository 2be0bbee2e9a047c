"""Traces made of random numbers: workers that are slow in bursts, Lambda functions, GPUs that are slow for long."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from orchestrator.core.coding.checks import check_range
from orchestrator.simulate.stragglers.checks import check_number, check_probability
from orchestrator.simulate.stragglers.trace import Floats, Trace, additive, multiplicative

LAMBDA_FASTEST_S = (0.54, 0.61)
"""Range of the fastest worker's delay in a round."""
LAMBDA_HOT_SHARE = 1 / 8
"""Share of the workers that are slow often."""
LAMBDA_HOT, LAMBDA_OTHER = (0.22, 0.86), (0.028, 0.94)
"""Probability of turning slow and of turning good again, per round: workers that are slow often, and others."""
GOOD_QUANTILES = ((0, 0.01, 0.5, 0.9, 0.99, 1), (1.0, 1.02, 1.16, 1.35, 1.90, 2.0))
"""Delays of good workers relative to the fastest, and the share of them up to each."""
SLOW_QUANTILES = ((0, 0.05, 0.5, 0.9, 0.99, 1), (2.0, 2.02, 2.46, 2.92, 3.29, 4.13))
"""The same for slow workers."""
COLD_START_S = 20.0
"""Seconds that a cold start adds."""


def slow_states(
    rng: np.random.Generator, num_rounds: int, enter: Floats | float, leave: Floats | float, num_workers: int
) -> NDArray[np.bool_]:
    """Who is slow when, ``[num_rounds, num_workers]``: a Markov chain of two states for each worker.

    Args:
        rng: Source of the random numbers.
        num_rounds: Rounds; the first is drawn from the share of rounds that a worker is slow in the long run.
        enter: Probability that a good worker is slow in the next round.
        leave: Probability that a slow one is good in the next round; not 0 where ``enter`` is 0.
        num_workers: Workers.
    """
    numbers = rng.random((num_rounds, num_workers))
    states = np.empty((num_rounds, num_workers), dtype=np.bool_)
    states[0] = numbers[0] < np.divide(enter, np.add(enter, leave))
    for t in range(1, num_rounds):
        states[t] = np.where(states[t - 1], numbers[t] >= leave, numbers[t] < enter)
    return states


def gilbert_elliott(
    num_rounds: int,
    num_workers: int,
    *,
    seed: int,
    enter: float = 0.042,
    leave: float = 0.845,
    factor: float = 4.0,
    fixed_s: float = 0.0,
    jitter: float = 0.05,
) -> Trace:
    """Workers that are slow by one factor, in bursts; seconds are those of an ordinary worker's own part.

    Args:
        num_rounds: Rounds.
        num_workers: Workers.
        seed: Of the random numbers.
        enter: Probability that a good worker is slow in the next round.
        leave: Probability that a slow one is good in the next round.
        factor: How many times longer a slow worker computes.
        fixed_s: Time of a round that does not depend on who computes how much.
        jitter: All computing takes up to this share less or more, evenly spread.

    Raises:
        ValueError: where an argument is out of its range.
    """
    _check_size(num_rounds, num_workers)
    check_probability("enter", enter)
    check_number("leave", leave, least=1e-9, most=1.0)
    check_number("factor", factor, least=1.0)
    check_number("fixed_s", fixed_s, least=0.0)
    check_number("jitter", jitter, least=0.0, most=0.9)
    rng = np.random.default_rng(seed)
    is_slow = slow_states(rng, num_rounds, enter, leave, num_workers)
    return multiplicative(np.where(is_slow, factor, 1.0) * _spread(rng, is_slow, jitter), work_s=1.0, fixed_s=fixed_s)


def lambda_functions(
    num_rounds: int, num_workers: int, *, seed: int, per_batch_s: float = 2.2013, cold_start: float = 0.0
) -> Trace:
    """Additive delays with the statistics of 256 Lambda functions: quantiles, bursts, and workers that are slow often.

    Args:
        num_rounds: Rounds.
        num_workers: Workers.
        seed: Of the random numbers.
        per_batch_s: Seconds of a whole batch.
        cold_start: Probability of ``COLD_START_S`` more, per worker and round; 0.0019 was the mean over all regions.

    Raises:
        ValueError: where an argument is out of its range.
    """
    _check_size(num_rounds, num_workers)
    check_number("per_batch_s", per_batch_s, least=0.0)
    check_probability("cold_start", cold_start)
    rng = np.random.default_rng(seed)
    is_hot = rng.permutation(num_workers) < LAMBDA_HOT_SHARE * num_workers
    enter, leave = (np.where(is_hot, hot, other) for hot, other in zip(LAMBDA_HOT, LAMBDA_OTHER, strict=True))
    is_slow = slow_states(rng, num_rounds, enter, leave, num_workers)
    rank = rng.random(is_slow.shape)
    ratio = np.where(is_slow, np.interp(rank, *SLOW_QUANTILES), np.interp(rank, *GOOD_QUANTILES))
    delays_s = ratio * rng.uniform(*LAMBDA_FASTEST_S, (num_rounds, 1))
    return additive(delays_s + COLD_START_S * (rng.random(is_slow.shape) < cold_start), per_batch_s)


def gpu_fail_slow(
    num_rounds: int,
    num_workers: int,
    *,
    seed: int,
    share: float = 0.005,
    mean_rounds: float = 2000.0,
    least: float = 1.1,
    most: float = 2.0,
    fixed_s: float = 0.0,
    jitter: float = 0.02,
) -> Trace:
    """GPUs of which few are slow, for thousands of rounds; seconds are those of an ordinary worker's own part.

    Args:
        num_rounds: Rounds.
        num_workers: Workers.
        seed: Of the random numbers.
        share: Share of the workers that are slow at a time.
        mean_rounds: Mean length of a slow stretch.
        least: Smallest factor by which a slow worker is slow; each stretch has its own, drawn evenly.
        most: Largest factor.
        fixed_s: Time of a round that does not depend on who computes how much.
        jitter: All computing takes up to this share less or more, evenly spread.

    Raises:
        ValueError: where an argument is out of its range.
    """
    _check_size(num_rounds, num_workers)
    check_number("share", share, least=0.0, most=0.5)
    check_number("mean_rounds", mean_rounds, least=1.0)
    check_number("least", least, least=1.0)
    check_number("most", most, least=least)
    check_number("fixed_s", fixed_s, least=0.0)
    check_number("jitter", jitter, least=0.0, most=0.9)
    rng = np.random.default_rng(seed)
    leave = 1 / mean_rounds
    is_slow = slow_states(rng, num_rounds, leave * share / (1 - share), leave, num_workers)
    factors = np.ones(is_slow.shape)
    drawn = rng.uniform(least, most, is_slow.shape)
    factors[0, is_slow[0]] = drawn[0, is_slow[0]]
    for t in range(1, num_rounds):
        factors[t, is_slow[t]] = np.where(is_slow[t - 1], factors[t - 1], drawn[t])[is_slow[t]]
    return multiplicative(factors * _spread(rng, is_slow, jitter), work_s=1.0, fixed_s=fixed_s)


def _check_size(num_rounds: int, num_workers: int) -> None:
    check_range("rounds", num_rounds, least=1)
    check_range("workers", num_workers, least=1)


def _spread(rng: np.random.Generator, like: NDArray[np.bool_], jitter: float) -> Floats:
    return rng.uniform(1 - jitter, 1 + jitter, like.shape)
