"""Every pattern of stragglers that a scheme accepts, by following the states that it can be in.

What a scheme does depends on its state alone, so patterns that lead to equal states are followed once and counted.
"""

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from itertools import product
from typing import Protocol, TypeAlias

import numpy as np

from orchestrator.core.coding.m_sgc import MSgc
from orchestrator.core.coding.scheme import Workers, count
from orchestrator.core.coding.sr_sgc import SrSgc
from orchestrator.core.errors import UndecodableError

Sequential: TypeAlias = SrSgc | MSgc


class StragglerModel(Protocol):
    """A set of patterns, tested one round after the other."""

    def admits(self, stragglers: Workers) -> bool: ...

    def append(self, stragglers: Workers) -> None: ...


class PerRound:
    """At most ``stragglers`` workers are slow in each round, whoever they are."""

    def __init__(self, stragglers: int) -> None:
        self._stragglers = stragglers

    def admits(self, stragglers: Workers) -> bool:
        return count(stragglers) <= self._stragglers

    def append(self, stragglers: Workers) -> None:
        """Earlier rounds do not matter."""


class Arbitrary:
    """The (N, W', lambda') model: within a window few workers are slow, and each of them in few rounds."""

    def __init__(self, num_workers: int, *, num_rounds: int, window: int, max_stragglers: int) -> None:
        self._num_rounds = num_rounds
        self._max_stragglers = max_stragglers
        self._history = np.zeros((window - 1, num_workers), dtype=np.bool_)
        self._counts = np.zeros(num_workers, dtype=np.intp)

    def admits(self, stragglers: Workers) -> bool:
        is_too_often = bool((stragglers & (self._counts >= self._num_rounds)).any())
        return not is_too_often and count(stragglers | (self._counts > 0)) <= self._max_stragglers

    def append(self, stragglers: Workers) -> None:
        if len(self._history):
            self._history[:-1] = self._history[1:]
            self._history[-1] = stragglers
            self._counts = self._history.sum(axis=0)


def subsets(num_workers: int) -> Iterator[Workers]:
    for bits in product((False, True), repeat=num_workers):
        yield np.array(bits)


def is_bursty(pattern: Sequence[Workers], burst: int, window: int, max_stragglers: int) -> bool:
    """The definition: in every window few workers are slow, and each only within less than ``burst`` rounds."""
    for start in range(len(pattern)):
        seen = np.array(pattern[start : start + window])
        if np.count_nonzero(seen.any(axis=0)) > max_stragglers:
            return False
        for worker in np.flatnonzero(seen.any(axis=0)):
            rounds = np.flatnonzero(seen[:, worker])
            if rounds[-1] - rounds[0] >= burst:
                return False
    return True


def is_arbitrary(pattern: Sequence[Workers], num_rounds: int, window: int, max_stragglers: int) -> bool:
    for start in range(len(pattern)):
        counts = np.sum(pattern[start : start + window], axis=0)
        if np.count_nonzero(counts) > max_stragglers or counts.max() > num_rounds:
            return False
    return True


def count_patterns(scheme: Sequential, num_jobs: int, decodes: Callable[[Sequential, int], bool]) -> tuple[int, int]:
    """How many patterns over all rounds of some jobs a scheme accepts, and with how many of them a job is not decoded.

    Args:
        scheme: Before its first round.
        num_jobs: Jobs, from round 0.
        decodes: Whether a job that was just completed is decoded.
    """
    states: dict[bytes, tuple[Sequential, int, int]] = {b"": (scheme, 1, 0)}
    for round_index in range(num_jobs + scheme.delay):
        reached: dict[bytes, tuple[Sequential, int, int]] = {}
        for state, num_patterns, num_failing in states.values():
            state.begin(round_index, has_new_job=round_index < num_jobs)
            for stragglers in subsets(scheme.num_workers):
                if not state.may_close(~stragglers):
                    continue
                child = _copy(state)
                is_fine = all(decodes(child, job) for job in child.close(~stragglers))
                key = _key(child)
                known, patterns, failing = reached.get(key, (child, 0, 0))
                reached[key] = (known, patterns + num_patterns, failing + (num_failing if is_fine else num_patterns))
        states = reached
    return sum(patterns for _, patterns, _ in states.values()), sum(failing for _, _, failing in states.values())


def decodes(scheme: Sequential, job: int) -> bool:
    try:
        decoded = scheme.decode(job)
    except UndecodableError:
        return False
    return decoded.residual < 1e-9


def _copy(scheme: Sequential) -> Sequential:
    """A scheme that goes on by itself; a deep copy would take most of the tests' time."""
    child = copy(scheme)
    child._delivered = {job: delivered.copy() for job, delivered in scheme._delivered.items()}
    child._history = copy(scheme._history)
    if hasattr(child._history, "_history"):
        child._history._history = child._history._history.copy()
    return child


def _key(scheme: Sequential) -> bytes:
    """What a scheme's future depends on, between two rounds."""
    history = getattr(scheme._history, "_history", np.zeros(0))
    return b"".join([history.tobytes(), *(scheme._delivered[job].tobytes() for job in sorted(scheme._delivered))])
