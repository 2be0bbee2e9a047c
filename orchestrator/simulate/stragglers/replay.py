"""Replays: what a scheme would have taken with the workers of a trace."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf

import numpy as np

from orchestrator.core.coding.scheme import Scheme, Workers
from orchestrator.core.coding.waiting import RoundEnd, WaitRule, round_end
from orchestrator.core.errors import UndecodableError, UsageError
from orchestrator.simulate.stragglers.patterns import burst_counts
from orchestrator.simulate.stragglers.trace import Floats, Shares, Trace


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Replay:
    """What became of a number of jobs."""

    round_s: Floats
    """[num_rounds] seconds of each round; 0 for those that were skipped."""
    num_waited_out: int
    """Rounds that went on beyond their deadline, as the scheme could not close them there."""
    num_skipped: int
    """Rounds without anything to do."""
    straggler_share: float
    """Share of all workers' rounds that ended without the worker, of those in which it had to compute."""
    bursts: tuple[int, ...]
    """How often a worker was missing for 1, 2, ... rounds in a row; up to the longest."""
    max_in_flight: int
    """Most jobs that had begun and were not decoded at a time."""
    num_undecoded: int
    """Jobs that were not decoded in time; 0 unless the scheme is broken."""
    num_survivor_sets: int | None
    """Different sets of messages that jobs were decoded from, so how many decode vectors were solved for; None where
    nothing was decoded."""

    @property
    def total_s(self) -> float:
        """Seconds of all rounds."""
        return float(self.round_s.sum())

    @property
    def fastest_round_s(self) -> float:
        """Seconds of the fastest round that was not skipped."""
        return float(self.round_s[self.round_s > 0].min(initial=inf))


def replay(
    trace: Trace,
    scheme: Scheme,
    rule: WaitRule,
    *,
    num_jobs: int,
    num_models: int = 1,
    carry_over: bool = False,
    decodes: bool = False,
    limit_s: float = inf,
) -> Replay | None:
    """Run jobs, one begun in each round, until the last is decoded.

    Args:
        trace: Of at least num_jobs + delay rounds, and of as many workers as the scheme has.
        scheme: Before its first round.
        rule: When rounds close.
        num_jobs: Jobs.
        num_models: Models that share the workers in turn: job t is of model t mod num_models.
        carry_over: A worker that is late begins its part of the next round only when it is done; else it leaves the
            round when it closes.
        decodes: Also solve for every decode vector, which ``num_undecoded`` then is about.
        limit_s: Give up where the total exceeds this many seconds.

    Returns:
        None where it was given up.

    Raises:
        UsageError: where a model's next job would begin before its last one is decoded, the trace is too short, or
            the scheme has no code of this size.
    """
    if num_models < scheme.delay + 1:
        raise UsageError(
            f"models: {num_models} cannot share the workers under a scheme that decodes a job up to "
            f"{scheme.delay} rounds after its own; at least {scheme.delay + 1} models can."
        )
    num_rounds = num_jobs + scheme.delay
    if num_rounds > trace.num_rounds:
        raise UsageError(
            f"jobs: {num_jobs} jobs, decoded up to {scheme.delay} rounds after their own, need {num_rounds} rounds; "
            f"the trace has {trace.num_rounds}."
        )
    shares = Shares(scheme, trace.batch_work)
    record = _Record(scheme.num_workers, num_rounds, decodes=decodes)
    now_s = 0.0
    free_at_s = np.zeros(scheme.num_workers)
    for t in range(num_rounds):
        scheme.begin(t, has_new_job=t < num_jobs)
        is_busy = scheme.loads() > 0
        times_s = trace.seconds(t, shares.of_round())
        if carry_over:
            times_s += np.maximum(free_at_s - now_s, 0.0)
            free_at_s = np.where(is_busy, now_s + times_s, free_at_s)
        end = round_end(times_s, scheme, rule)
        record.add(t, is_busy, end, scheme, begins=t < num_jobs)
        now_s += end.duration_s
        if now_s > limit_s:
            return None
    return record.result(num_jobs)


@dataclass(slots=True)
class _Record:
    """What a replay keeps of its rounds."""

    num_workers: int
    num_rounds: int
    decodes: bool
    round_s: Floats = field(init=False)
    missing: Workers = field(init=False)
    num_busy: int = 0
    num_waited_out: int = 0
    num_skipped: int = 0
    num_decoded: int = 0
    in_flight: int = 0
    max_in_flight: int = 0
    survivor_sets: set[tuple[tuple[int, int], ...]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.round_s = np.zeros(self.num_rounds)
        self.missing = np.zeros((self.num_rounds, self.num_workers), dtype=np.bool_)

    def add(self, round_index: int, is_busy: Workers, end: RoundEnd, scheme: Scheme, *, begins: bool) -> None:
        """Close the scheme's present round, decode what it completes, and keep what became of it."""
        self.in_flight += begins
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        self.round_s[round_index] = end.duration_s
        self.missing[round_index] = ~end.arrived
        self.num_busy += int(np.count_nonzero(is_busy))
        self.num_waited_out += end.waited_out
        self.num_skipped += not is_busy.any()
        for job in scheme.close(end.arrived):
            self.in_flight -= 1
            self.num_decoded += self._is_decoded(scheme, job)

    def _is_decoded(self, scheme: Scheme, job: int) -> bool:
        if not self.decodes:
            return True
        try:
            self.survivor_sets.add(scheme.decode(job).messages)
        except UndecodableError:
            return False
        except ValueError as error:  # a code that cannot be drawn is known only when it is used
            raise UsageError(str(error)) from None
        return True

    def result(self, num_jobs: int) -> Replay:
        return Replay(
            round_s=self.round_s,
            num_waited_out=self.num_waited_out,
            num_skipped=self.num_skipped,
            straggler_share=np.count_nonzero(self.missing) / max(1, self.num_busy),
            bursts=burst_counts(self.missing),
            max_in_flight=self.max_in_flight,
            num_undecoded=num_jobs - self.num_decoded,
            num_survivor_sets=len(self.survivor_sets) if self.decodes else None,
        )
