"""The straggler model of the sequential codes: which workers may be slow in a round, given who was slow before."""

from __future__ import annotations

import numpy as np

from orchestrator.core.coding.scheme import Workers, count


class Bursty:
    """The (B, W, lambda) model of arXiv 2211.13802.

    In every window of ``window`` consecutive rounds at most ``max_stragglers`` workers are slow, and the first and the
    last round in which one of them is are less than ``burst`` rounds apart.
    """

    def __init__(self, num_workers: int, *, burst: int, window: int, max_stragglers: int) -> None:
        self._max_stragglers = max_stragglers
        self._num_early = window - burst
        self._history = np.zeros((window - 1, num_workers), dtype=np.bool_)
        self._recent: Workers = np.zeros(num_workers, dtype=np.bool_)
        self._early: Workers = np.zeros(num_workers, dtype=np.bool_)

    def admits(self, stragglers: Workers) -> bool:
        """Whether the pattern stays in the model where these workers are slow in the present round.

        Subsets of admitted stragglers are admitted.
        """
        is_new_burst = bool((stragglers & self._early).any())
        return not is_new_burst and count(stragglers | self._recent) <= self._max_stragglers

    def append(self, stragglers: Workers) -> None:
        """Make these workers the slow ones of the present round and go on to the next."""
        if len(self._history):
            self._history[:-1] = self._history[1:]
            self._history[-1] = stragglers
            self._recent = np.logical_or.reduce(self._history)
            self._early = np.logical_or.reduce(self._history[: self._num_early])
