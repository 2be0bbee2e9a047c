"""A trace that every program computes alike: its random numbers are a hash of where they are used, in integers only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from orchestrator.core.coding.checks import check_range
from orchestrator.simulate.stragglers.checks import check_probability
from orchestrator.simulate.stragglers.trace import Floats, Trace, additive

PER_BATCH_S = 2.2013
"""Seconds of a whole batch."""
FASTEST_S = 0.555
"""Seconds to which delays are relative."""
RARE_S = 20.0
"""Seconds of a rare event, such as a cold start."""
STATE, SIZE, RARE = 1, 2, 3
"""Streams of random numbers: who is slow, by how much, and who meets a rare event."""


def uniform(seed: int, stream: int, round_index: int, workers: NDArray[np.uint64]) -> Floats:
    """A number in [0, 1) for each worker ``[num_workers]``: the finalizer of splitmix64 over its place in the trace."""
    with np.errstate(over="ignore"):  # integers of 64 bits that wrap around are what is wanted
        key = np.uint64((seed << 44) + (stream << 40) + (round_index << 16)) + workers
        mixed = key + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed = mixed ^ (mixed >> np.uint64(31))
    numbers: Floats = (mixed >> np.uint64(11)).astype(np.float64) / 2.0**53
    return numbers


def reference(num_rounds: int, num_workers: int, *, seed: int = 1, rare: float = 0.0) -> Trace:
    """Additive delays in the manner of 256 Lambda functions; every eighth worker is slow often.

    A slow worker takes 2.02 or more times as long as the fastest, any other one less than 2 times. Delays do not grow
    with the share of a batch, of which a whole one takes ``PER_BATCH_S``.

    Args:
        num_rounds: Rounds.
        num_workers: Workers, at most 65,536.
        seed: From 0 to 1,048,575.
        rare: Probability of a rare event, per worker and round.

    Raises:
        ValueError: where an argument is out of its range.
    """
    check_range("workers", num_workers, least=1, most=2**16)
    check_range("rounds", num_rounds, least=1, most=2**24)
    check_range("seed", seed, least=0, most=2**20 - 1)
    check_probability("rare", rare)
    workers = np.arange(num_workers, dtype=np.uint64)
    is_hot = workers % 8 == 3
    turns_slow, turns_good = np.where(is_hot, 0.22, 0.026), np.where(is_hot, 0.85, 0.94)
    delays_s = np.empty((num_rounds, num_workers))
    is_slow = np.empty(num_workers, dtype=np.bool_)
    for t in range(num_rounds):
        state = uniform(seed, STATE, t, workers)
        starts_slow = state < turns_slow / (turns_slow + turns_good)
        is_slow = starts_slow if t == 0 else np.where(is_slow, state > turns_good, state < turns_slow)
        size = -np.log1p(-uniform(seed, SIZE, t, workers))
        ratio = np.where(is_slow, 2.02 + 0.45 * size, np.minimum(1.02 + 0.16 * size, 1.95))
        delays_s[t] = FASTEST_S * ratio + RARE_S * (uniform(seed, RARE, t, workers) < rare)
    return additive(delays_s, PER_BATCH_S)
