"""Every pattern of stragglers that a scheme accepts, by following the states that it can be in.

What a scheme does depends on its state alone, so patterns that lead to equal states are followed once and counted.
"""

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from itertools import product
from typing import TypeAlias

import numpy as np

from orchestrator.core.coding.m_sgc import MSgc
from orchestrator.core.coding.scheme import Workers
from orchestrator.core.coding.sr_sgc import SrSgc
from orchestrator.core.errors import UndecodableError

Sequential: TypeAlias = SrSgc | MSgc


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
