"""A worker of the served topology: it pulls assignments, computes chunks, and pushes coded gradients."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from orchestrator.core.coding.scheme import Task
from orchestrator.core.protocols import MicroBatch
from orchestrator.core.served import Acknowledgement, Assignment, ChunkReport, Finished, MessageKey, WorkerPort
from orchestrator.core.wire import to_wire
from orchestrator.spec.job import JobSpec
from orchestrator.spec.methods.coded import Coded
from orchestrator.spec.sweep import trials_of
from orchestrator.train.delays import Delays
from orchestrator.train.rank_times import num_elements
from orchestrator.train.worker_model import WorkerModel


class ChunkWorker:
    """Computes what it is assigned until there is nothing more.

    A round that has been left behind is noticed between micro-batches; what was computed of it is thrown away.

    Args:
        spec: the job; with a sweep the worker holds the models of all trials.
        code: folder of the user's files.
        port: to the shards.
        device: that it computes on.
    """

    def __init__(self, spec: JobSpec, code: Path, port: WorkerPort, device: torch.device) -> None:
        assert isinstance(spec.exchange, Coded)  # only served exchanges start such workers
        self._config = spec.exchange
        self._port = port
        self._models = [
            WorkerModel(
                trial,
                code,
                num_shards=spec.exchange.shards,
                device=device,
                fetch=port.fetch,
                begin_micro_batch=self._begin_micro_batch,
            )
            for trial in trials_of(spec)
        ]
        self._delays: Delays | None = None
        if self._config.inject is not None:
            drawn = self._config.draw_factor(spec.resources.num_workers)
            self._delays = Delays(self._config.inject, code, port.sender.worker, drawn)

    def serve(self) -> None:
        """Work until the port has no more assignments.

        Raises:
            RecipeError: where user code fails.
        """
        while (assignment := self._port.next_assignment()) is not None:
            self._work(assignment)

    def _work(self, assignment: Assignment) -> None:
        planned_s = 0.0 if self._delays is None else self._delays.in_round(assignment)
        self._effort = _Effort(assignment, planned_s)
        reports: dict[tuple[int, int], ChunkReport] = {}
        sent: dict[tuple[int, int], Acknowledgement] = {}
        complete = True
        try:
            for task in assignment.tasks:
                reports |= self._compute(task, assignment)
                arrays = [
                    to_wire(flat, self._config.message_dtype) for flat in self._model_of(task, assignment).gradients
                ]
                key = MessageKey(sender=self._port.sender, job=task.job, slot=task.slot)
                sent[task.job, task.slot] = self._port.push(key, arrays)
        except _StaleError:
            complete = False
        seconds = self._effort.seconds()
        taken = {key: answer.result() for key, answer in sent.items()}
        self._port.finish(
            Finished(
                sender=self._port.sender,
                round_index=assignment.round_index,
                seconds=seconds,
                reports=reports if complete else {},
                num_elements=self._effort.num_elements,
                sent=tuple(key for key, is_taken in taken.items() if is_taken),
                rejected=tuple(key for key, is_taken in taken.items() if not is_taken),
                complete=complete,
            )
        )

    def _model_of(self, task: Task, assignment: Assignment) -> WorkerModel:
        return self._models[assignment.work[task.job].request.model]

    def _compute(self, task: Task, assignment: Assignment) -> dict[tuple[int, int], ChunkReport]:
        """Leave a task's message in the model's gradients; what the chunks reported, by job and chunk."""
        work, model = assignment.work[task.job], self._model_of(task, assignment)
        model.prepare(work.request, work.weights)
        reports = {}
        for chunk, coefficient in zip(task.chunks, task.coefficients, strict=True):
            if self._delays is not None:
                started = time.perf_counter()
                self._port.sleep(self._delays.before(chunk, assignment))
                self._effort.slept_s += time.perf_counter() - started
            report = model.compute(work.request, chunk, coefficient, assignment.chunk_weights)
            reports[task.job, chunk] = report
            self._effort.end_micro_batch()
        return reports

    def _begin_micro_batch(self, micro: MicroBatch) -> None:
        if self._port.is_stale():
            self._effort.end_micro_batch()
            raise _StaleError
        self._effort.begin_micro_batch(micro)


class _StaleError(Exception):
    """A newer assignment waits; the round goes on without this worker."""


class _Effort:
    """How long a worker takes for a round.

    Args:
        assignment: what it is to do.
        planned_s: of that time, what it waits on purpose.
    """

    def __init__(self, assignment: Assignment, planned_s: float) -> None:
        self._started = time.perf_counter()
        self._planned_s = planned_s
        weights = assignment.chunk_weights
        self._to_do = sum(weights[chunk] for task in assignment.tasks for chunk in task.chunks) / sum(weights)
        self._done = self._current = 0.0  # shares of a batch
        self.slept_s = 0.0
        self.num_elements = 0

    def begin_micro_batch(self, micro: MicroBatch) -> None:
        """The micro-batch before is done, and the next one begins."""
        self.end_micro_batch()
        self._current = micro.weight
        self.num_elements += num_elements(micro.batch)

    def end_micro_batch(self) -> None:
        """The micro-batch is done."""
        self._done += self._current
        self._current = 0.0

    def seconds(self) -> float:
        """The whole round's time; from the share that is done where the worker leaves it now."""
        computed_s = time.perf_counter() - self._started - self.slept_s
        share = min(1.0, self._done / self._to_do) if self._to_do else 1.0
        return self._planned_s + (computed_s / share if share else computed_s)
