"""When a round ends: over times that are known beforehand, and by the clock of a real exchange."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, isfinite
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from orchestrator.core.coding.scheme import Scheme, Workers
from orchestrator.core.errors import UndecodableError


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitRule:
    """How long a round waits for messages.

    Raises:
        ValueError: where a value is not legal.
    """

    kind: Literal["first", "deadline"]
    """first: the round closes at the first arrival with which the scheme can close it. deadline: it closes (1 + mu)
    times as long after its start as the fastest worker took, or with its last message where that is earlier; where
    the scheme cannot close it then, it is waited out."""
    mu: float = 1.0
    """Deadlines only: see ``kind``."""
    wait: Literal["all", "min"] = "min"
    """Deadlines only: a round that is waited out lasts until all workers have arrived, or until it can close."""

    def __post_init__(self) -> None:
        if self.kind not in ("first", "deadline"):
            raise ValueError(f"Invalid kind value: {self.kind!r}. Must be 'first' or 'deadline'.")
        if not (isfinite(self.mu) and self.mu >= 0):
            raise ValueError(f"Invalid mu value: {self.mu}. Must be a finite number of at least 0.")
        if self.wait not in ("all", "min"):
            raise ValueError(f"Invalid wait value: {self.wait!r}. Must be 'all' or 'min'.")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RoundEnd:
    """How a round ended."""

    duration_s: float
    """From the start of the round."""
    arrived: Workers
    """Workers whose messages were there, or who had nothing to compute, [num_workers]."""
    waited_out: bool
    """Whether the round went beyond a deadline at which the scheme could not close it."""


def round_end(times_s: NDArray[np.float64], scheme: Scheme, rule: WaitRule) -> RoundEnd:
    """When and with whom the scheme's present round ends.

    Args:
        times_s: ``[num_workers]`` seconds after the start at which each worker's messages are there, inf where they
            never will be. Workers without load count as arrived from the start and define no deadline.
        scheme: In the round that is asked about.
        rule: How long to wait.

    Raises:
        UndecodableError: where the round cannot close with all messages that ever arrive.
    """
    is_busy = scheme.loads() > 0
    if not is_busy.any():
        return RoundEnd(duration_s=0.0, arrived=np.ones_like(is_busy), waited_out=False)
    times_s = np.where(is_busy, times_s, 0.0)
    arrivals = np.unique(times_s[is_busy & np.isfinite(times_s)])
    if not arrivals.size:
        raise _never_closes(times_s)
    if rule.kind == "first":
        return _first_end(times_s, arrivals, scheme, waited_out=False)
    deadline = (1 + rule.mu) * arrivals[0]
    end = min(deadline, arrivals[-1])
    arrived = times_s <= end
    if scheme.may_close(arrived):
        return RoundEnd(duration_s=float(end), arrived=arrived, waited_out=False)
    return _first_end(times_s, arrivals if rule.wait == "min" else arrivals[-1:], scheme, waited_out=True)


def _first_end(
    times_s: NDArray[np.float64], moments: NDArray[np.float64], scheme: Scheme, *, waited_out: bool
) -> RoundEnd:
    """The end at the first of some ascending moments at which the scheme can close; found by bisection."""
    if not scheme.may_close(times_s <= moments[-1]):
        raise _never_closes(times_s)
    low, high = 0, len(moments) - 1
    while low < high:
        middle = (low + high) // 2
        if scheme.may_close(times_s <= moments[middle]):
            high = middle
        else:
            low = middle + 1
    return RoundEnd(duration_s=float(moments[low]), arrived=times_s <= moments[low], waited_out=waited_out)


def _never_closes(times_s: NDArray[np.float64]) -> UndecodableError:
    num_lost = int(np.count_nonzero(np.isinf(times_s)))
    return UndecodableError(f"The round cannot close: {num_lost} of {len(times_s)} workers will never send a message.")


class RoundClock:
    """The same decision while a round runs: told of each arrival, it says when the round closes.

    Made after ``scheme.begin``. Ask ``closes`` after each arrival, and at the moment of ``next_check_s``. Nobody is
    given up: a worker that is lost is replaced, and what it lacks comes from its replacement.
    """

    def __init__(self, scheme: Scheme, rule: WaitRule) -> None:
        self._scheme = scheme
        self._rule = rule
        self._is_busy = scheme.loads() > 0
        self._times_s = np.where(self._is_busy, inf, 0.0)
        self.waited_out = False
        """Whether the round goes on beyond its deadline, as the scheme could not close it there."""

    @property
    def workers(self) -> Workers:
        """Workers whose messages are there, or who have nothing to compute, [num_workers]."""
        return np.isfinite(self._times_s)

    def arrived(self, worker: int, elapsed_s: float) -> None:
        """All messages of a worker are there, so many seconds after the start of the round."""
        self._times_s[worker] = min(self._times_s[worker], elapsed_s)

    def closes(self, elapsed_s: float) -> bool:
        """Whether the round closes now, so many seconds after its start."""
        if not self._is_busy.any():
            return True
        arrived = self.workers
        is_complete = bool(arrived.all())
        has_arrival = bool(arrived[self._is_busy].any())
        may_close = has_arrival and self._scheme.may_close(arrived)
        if self._rule.kind == "first" or not has_arrival:
            return may_close
        deadline_s = self._deadline_s()
        if elapsed_s < deadline_s and not is_complete:
            return False
        self.waited_out = not self._scheme.may_close(self._times_s <= deadline_s)
        return is_complete or (may_close and not (self.waited_out and self._rule.wait == "all"))

    def next_check_s(self) -> float | None:
        """Seconds after the start at which to ask again even if nothing arrives; None where only arrivals matter."""
        if self._rule.kind == "first" or self.waited_out or not self.workers[self._is_busy].any():
            return None
        return self._deadline_s()

    def _deadline_s(self) -> float:
        """Seconds after the start; some worker with a load has arrived."""
        return float((1 + self._rule.mu) * self._times_s[self._is_busy].min())
