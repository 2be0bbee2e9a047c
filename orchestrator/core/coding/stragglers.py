"""Straggler models: which workers may be slow in a round, given who was slow before."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from orchestrator.core.coding.checks import check_range
from orchestrator.core.coding.scheme import Workers, count


class StragglerModel(Protocol):
    """A set of patterns, tested one round after the other. Monotone: subsets of admitted stragglers are admitted."""

    def admits(self, stragglers: Workers) -> bool:
        """Whether the pattern stays in the model where these workers are slow in the present round."""

    def append(self, stragglers: Workers) -> None:
        """Make these workers the slow ones of the present round and go on to the next."""


class PerRound:
    """At most ``stragglers`` workers are slow in each round, whoever they are."""

    def __init__(self, stragglers: int) -> None:
        check_range("stragglers", stragglers, least=0)
        self._stragglers = stragglers

    def admits(self, stragglers: Workers) -> bool:
        """See ``StragglerModel``."""
        return count(stragglers) <= self._stragglers

    def append(self, stragglers: Workers) -> None:
        """See ``StragglerModel``; earlier rounds do not matter."""


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
        """See ``StragglerModel``."""
        is_new_burst = bool((stragglers & self._early).any())
        return not is_new_burst and count(stragglers | self._recent) <= self._max_stragglers

    def append(self, stragglers: Workers) -> None:
        """See ``StragglerModel``."""
        if len(self._history):
            self._history[:-1] = self._history[1:]
            self._history[-1] = stragglers
            self._recent = np.logical_or.reduce(self._history)
            self._early = np.logical_or.reduce(self._history[: self._num_early])


class Arbitrary:
    """The (N, W', lambda') model: within a window, few workers are slow, and each of them in few rounds.

    In every window of ``window`` consecutive rounds at most ``max_stragglers`` workers are slow, each of them in at
    most ``num_rounds`` rounds.
    """

    def __init__(self, num_workers: int, *, num_rounds: int, window: int, max_stragglers: int) -> None:
        check_range("window", window, least=1)
        self._num_rounds = num_rounds
        self._max_stragglers = max_stragglers
        self._history = np.zeros((window - 1, num_workers), dtype=np.bool_)
        self._counts = np.zeros(num_workers, dtype=np.intp)

    def admits(self, stragglers: Workers) -> bool:
        """See ``StragglerModel``."""
        is_too_often = bool((stragglers & (self._counts >= self._num_rounds)).any())
        return not is_too_often and count(stragglers | (self._counts > 0)) <= self._max_stragglers

    def append(self, stragglers: Workers) -> None:
        """See ``StragglerModel``."""
        if len(self._history):
            self._history[:-1] = self._history[1:]
            self._history[-1] = stragglers
            self._counts = self._history.sum(axis=0)
