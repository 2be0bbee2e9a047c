"""Decides when rounds begin and close: a state machine over events, without threads, clocks or Ray of its own.

job submitted --> round opens: every live worker gets its assignment
worker finished, lost, joined; time passes --> may the round close?
round closes --> jobs are decoded; the next round opens when its job is there
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.core.coding.scheme import Decoded, Scheme, Workers
from orchestrator.core.coding.waiting import RoundClock, WaitRule
from orchestrator.core.served import (
    Assignment,
    ChunkReport,
    Event,
    Finished,
    Joined,
    Lost,
    ModuleSquares,
    Retired,
    RoundRequest,
    Sender,
    Submitted,
    Work,
)

FOR_EVERYBODY = WaitRule(kind="deadline", mu=1e12, wait="all")
"""A round that closes with its last message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    """One decoded job: what the shards sum, and what the workers found out."""

    decoded: Decoded
    metrics: Mapping[str, float]
    """Means over the samples in the sum."""
    buffers: Mapping[str, NDArray[Any]]
    """Buffers that the owner chunk has changed; empty where it is not in the sum."""
    squares: ModuleSquares | None = None
    """Of all chunks in the sum; None where they were not asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenUp:
    """One job that will never be decoded: gradients are not finite, whoever computes them."""

    job: int
    message: str
    """One sentence for a person."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundSummary:
    """What became of one round, for the history."""

    request: RoundRequest
    """Of the job that began in it."""
    seconds: tuple[float | None, ...]
    """Each worker's own time; None where it was not there, its estimate where it left the round."""
    elements: tuple[int | None, ...]
    """Tensor elements of each worker's micro-batches; None where it left the round."""
    left: tuple[int, ...]
    """Workers that left the round for a newer one: stragglers without whom it closed."""


@dataclass(slots=True)
class _OpenRound:
    index: int
    started: float
    clock: RoundClock
    assignments: tuple[Assignment, ...]
    request: RoundRequest | None
    """Of the job that began; None where the turn was that of a model that trains no further."""
    arrived: Workers
    heard: float | None = None
    """When the newest answer of a worker came; None before the first."""
    refused: dict[int, Finished] = field(default_factory=dict)
    """By worker: what it said of a message that is not finite."""
    assigned: dict[int, float] = field(default_factory=dict)
    """By worker that is at work, since when."""
    finished: dict[int, Finished] = field(default_factory=dict)

    def summary(self, request: RoundRequest, now: float) -> RoundSummary:
        """The history of the round, some time after it was closed."""
        workers = range(len(self.arrived))
        done = self.finished
        busy_s = now - self.started
        return RoundSummary(
            request=request,
            seconds=tuple(done[w].seconds if w in done else busy_s if w in self.assigned else None for w in workers),
            elements=tuple(done[w].num_elements if w in done and done[w].complete else None for w in workers),
            left=tuple(w for w in workers if w in self.assigned and not (w in done and done[w].complete)),
        )


class Coordinator:
    """Drives one scheme over rounds.

    Args:
        scheme: the code.
        rule: when a round closes.
        num_models: models that take turns: job t is of model t mod num_models.
        assign: gives a worker its newest assignment.
        on_closed: is given every decoded job, and those that are given up.
        on_round: is given the history of every round.
        on_overdue: is told of the life of a worker that holds up a round for too long.
        worker_timeout_s: how long that is, from the newest answer of another worker; None is for ever.
    """

    def __init__(
        self,
        scheme: Scheme,
        rule: WaitRule,
        *,
        num_models: int,
        assign: Callable[[int, Assignment], None],
        on_closed: Callable[[Closed | GivenUp], None],
        on_round: Callable[[RoundSummary], None],
        on_overdue: Callable[[Sender], None],
        worker_timeout_s: float | None,
    ) -> None:
        self._scheme = scheme
        self._rule = rule
        self._num_models = num_models
        self._retired: set[int] = set()
        self._assign = assign
        self._on_closed = on_closed
        self._on_round = on_round
        self._on_overdue = on_overdue
        self._worker_timeout_s = worker_timeout_s
        self._overdue: set[Sender] = set()
        self._live: dict[int, Sender] = {}
        self._next_round = 0
        self._submitted: dict[int, Work] = {}
        self._reports: dict[int, dict[int, ChunkReport]] = {}
        self._open: _OpenRound | None = None
        self._before: _OpenRound | None = None
        """The round before, whose history is told when this one closes: who left it says so a little later."""
        self._chunks: dict[int, dict[tuple[int, int], tuple[int, ...]]] = {}
        """By job: the chunks in the message of (worker, slot)."""

    def handle(self, event: Event, now: float) -> None:
        """Take one event that has happened by ``now``, in seconds of any steady clock."""
        match event:
            case Submitted(job, work):
                self._submitted[job] = work
                self._open_next(now)
            case Joined(sender):
                self._join(sender, now)
            case Lost(sender):
                self._lose(sender)
            case Finished():
                self._finish(event, now)
            case Retired(model):
                self._retired.add(model)
                self._open_next(now)

    def _join(self, sender: Sender, now: float) -> None:
        # It takes part in the open round at once: without it the round may have nobody for some chunk.
        self._live[sender.worker] = sender
        if self._open is not None:
            self._open.refused.pop(sender.worker, None)
            self._open.assigned[sender.worker] = now
            self._assign(sender.worker, self._open.assignments[sender.worker])

    def _lose(self, sender: Sender) -> None:
        # A straggler until its replacement joins, so the round's clock is not told that nothing will come.
        if self._live.get(sender.worker) != sender:
            return
        del self._live[sender.worker]
        if self._open is not None and not self._open.arrived[sender.worker]:
            self._open.assigned.pop(sender.worker, None)

    def _finish(self, finished: Finished, now: float) -> None:
        worker = finished.sender.worker
        if self._live.get(worker) != finished.sender:
            return
        for known in (self._open, self._before):
            if known is not None and known.index == finished.round_index:
                known.finished[worker] = finished
        current = self._open
        if current is None or finished.round_index != current.index:
            self._credit(finished)
            return
        if not finished.complete:
            return
        current.heard = now
        if finished.rejected:
            current.refused[worker] = finished
        else:
            self._arrive(current, finished, now)
            self.tick(now)
        if self._open is current:
            self._refuse_to_wait_for_ever(current, now)

    def _arrive(self, current: _OpenRound, finished: Finished, now: float) -> None:
        """A worker's messages count for the round."""
        for (job, chunk), report in finished.reports.items():
            if job in self._submitted:
                self._reports.setdefault(job, {}).setdefault(chunk, report)
        current.arrived[finished.sender.worker] = True
        current.clock.arrived(finished.sender.worker, now - current.started)

    def _credit(self, finished: Finished) -> None:
        """Messages of a round that closed without their worker may still be of use to a job in flight."""
        worker = finished.sender.worker
        for job, slot in finished.sent if finished.complete else ():
            if job in self._submitted and self._scheme.credit(worker, job, slot):
                for chunk in self._chunks[job][worker, slot]:
                    self._reports.setdefault(job, {}).setdefault(chunk, finished.reports[job, chunk])

    def tick(self, now: float) -> None:
        """Close the open round where it may close by now; tell who holds it up where it may not."""
        current = self._open
        if current is None:
            return
        if current.clock.closes(now - current.started):
            self._close(current, now)
            self._open_next(now)
            return
        for sender, moment in self._overdue_at(current).items():
            if moment <= now:
                self._overdue.add(sender)
                self._on_overdue(sender)

    def _overdue_at(self, current: _OpenRound) -> dict[Sender, float]:
        """When those who are still at work in the round will have held it up for too long."""
        if self._worker_timeout_s is None or current.heard is None:
            return {}
        missing = (w for w in current.assigned if not current.arrived[w] and w not in current.refused)
        return {
            self._live[w]: max(current.heard, current.assigned[w]) + self._worker_timeout_s
            for w in missing
            if self._live[w] not in self._overdue
        }

    def end(self, now: float) -> None:
        """Tell the history of the round before the open one, or of the last one where nothing more will happen."""
        before, self._before = self._before, None
        if before is not None and before.request is not None:
            self._on_round(before.summary(before.request, now))

    def next_check(self) -> float | None:
        """When to call ``tick`` though nothing has happened; None where only events matter."""
        if self._open is None:
            return None
        seconds = self._open.clock.next_check_s()
        moments = [*self._overdue_at(self._open).values(), *([] if seconds is None else [self._open.started + seconds])]
        return min(moments, default=None)

    def _open_next(self, now: float) -> None:
        index = self._next_round
        # A model that trains no further still has its turns, without work, as long as others have jobs in flight.
        is_idle_turn = index % self._num_models in self._retired and bool(self._submitted)
        if self._open is not None or not (index in self._submitted or is_idle_turn):
            return
        self._next_round += 1
        self._scheme.begin(index, has_new_job=True)
        assignments = tuple(self._assignment(index, worker) for worker in range(self._scheme.num_workers))
        self._open = _OpenRound(
            index=index,
            started=now,
            clock=RoundClock(self._scheme, self._rule_of(index)),
            assignments=assignments,
            request=None if is_idle_turn else self._submitted[index].request,
            arrived=np.zeros(self._scheme.num_workers, dtype=bool),
            assigned=dict.fromkeys(self._live, now),
        )
        for worker in self._live:
            self._assign(worker, assignments[worker])

    def _rule_of(self, index: int) -> WaitRule:
        """A step with fewer samples than workers waits for all: who has nothing to compute would be there first."""
        work = self._submitted.get(index)
        is_tiny = work is not None and work.request.num_samples < self._scheme.num_workers
        return FOR_EVERYBODY if is_tiny else self._rule

    def _assignment(self, index: int, worker: int) -> Assignment:
        tasks = tuple(task for task in self._scheme.tasks(worker) if task.job in self._submitted)
        for task in tasks:
            self._chunks.setdefault(task.job, {})[worker, task.slot] = task.chunks
        return Assignment(
            round_index=index,
            tasks=tasks,
            work={task.job: self._submitted[task.job] for task in tasks},
            chunk_weights=self._scheme.chunk_weights,
        )

    def _close(self, current: _OpenRound, now: float) -> None:
        due = self._scheme.close(current.arrived)
        self._open = None
        for job in (job for job in due if job in self._submitted):
            decoded = self._scheme.decode(job)
            chunks = self._chunks.pop(job)
            used = sorted({chunk for message in decoded.messages for chunk in chunks[message]})
            self._on_closed(_closed(decoded, self._reports.pop(job), used))
            del self._submitted[job]
        self.end(now)
        self._before = current

    def _refuse_to_wait_for_ever(self, current: _OpenRound, now: float) -> None:
        """Where nobody is left to wait for, close the round; without the jobs whose messages are refused if need be."""
        waits_for = set(range(self._scheme.num_workers)) - current.refused.keys() - set(np.flatnonzero(current.arrived))
        if not current.refused or waits_for:
            return
        if not self._scheme.may_close(current.arrived):
            self._give_up(current)
            # What the same workers have sent for other jobs is as good as anybody's.
            for finished in current.refused.values():
                self._arrive(current, finished, now)
        self._close(current, now)
        self._open_next(now)

    def _give_up(self, current: _OpenRound) -> None:
        """Give up the jobs that refused messages are of; those of other models go on."""
        workers = ", ".join(map(str, sorted(current.refused)))
        refused = {job for finished in current.refused.values() for job, _ in finished.rejected}
        for job in sorted(refused & self._submitted.keys()):
            step = self._submitted.pop(job).request.step + 1
            self._chunks.pop(job, None)
            self._reports.pop(job, None)
            message = (
                f"The gradients of step {step} are not finite on workers {workers}: training cannot go on. A lower "
                "learning rate, a longer warmup or train.clip_grad_norm usually helps."
            )
            self._on_closed(GivenUp(job=job, message=message))


def _closed(decoded: Decoded, reports: Mapping[int, ChunkReport], used: Sequence[int]) -> Closed:
    """A decoded job with the means over the chunks that are in its sum."""
    metrics: dict[str, float] = {}
    weight = sum(reports[chunk].weight for chunk in used)
    for chunk in used:
        for name, value in reports[chunk].metrics.items():
            metrics[name] = metrics.get(name, 0.0) + value
    buffers = {name: array for chunk in used for name, array in reports[chunk].buffers.items()}
    told = [squares for chunk in used if (squares := reports[chunk].squares) is not None]
    return Closed(
        decoded=decoded,
        metrics={name: value / weight for name, value in metrics.items()},
        buffers=buffers,
        squares=reduce(add, told) if told else None,
    )
