"""A worker of the served topology: it pulls assignments, computes chunks, and pushes coded gradients."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from orchestrator.core.coding.scheme import Task
from orchestrator.core.flat_shards import FlatShards
from orchestrator.core.seeding import seed_everything
from orchestrator.core.served import (
    Acknowledgement,
    Assignment,
    ChunkReport,
    Finished,
    MessageKey,
    Publication,
    Work,
    WorkerPort,
)
from orchestrator.core.wire import to_wire
from orchestrator.data.chunks import ChunkReader
from orchestrator.data.randomness import phase_seed
from orchestrator.engines.base import weighted_loss
from orchestrator.engines.precision import Precision
from orchestrator.spec.job import JobSpec
from orchestrator.spec.methods.coded import Coded
from orchestrator.spec.phases import phases_of
from orchestrator.train.delays import Delays
from orchestrator.train.rank_times import num_elements
from orchestrator.train.recipe import CheckedLoss
from orchestrator.train.sources import build_model, read_source

OWNER_CHUNK = 0
"""The chunk whose forward moves the model's buffers (running statistics), as rank 0's do under all-reduce."""


class _Stale(Exception):  # noqa: N818 - no error: the round goes on without this worker
    """A newer assignment waits."""


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
        self.slept_s = 0.0
        self.done = 0.0
        """Share of a batch that has been computed."""
        self.num_elements = 0

    def seconds(self) -> float:
        """The whole round's time; from the share that is done where the worker leaves it now."""
        computed_s = time.perf_counter() - self._started - self.slept_s
        share = min(1.0, self.done / self._to_do) if self._to_do else 1.0
        return self._planned_s + (computed_s / share if share else computed_s)


class ChunkWorker:
    """Computes what it is assigned until there is nothing more.

    A round that has been left behind is noticed between micro-batches; what was computed of it is thrown away.

    Args:
        spec: the job.
        code: folder of the user's files.
        port: to the shards.
        device: that it computes on.
    """

    def __init__(self, spec: JobSpec, code: Path, port: WorkerPort, device: torch.device) -> None:
        assert isinstance(spec.exchange, Coded)  # only served exchanges start such workers
        self._config = spec.exchange
        self._phases = phases_of(spec)
        self._code = code
        self._port = port
        self._device = device
        self._seed = spec.train.seed
        source = read_source(self._phases[0], code)
        self._model = build_model(self._phases[0], source.recipe, code).to(device).train()
        shards = FlatShards(self._model, self._config.shards)
        self._weights = shards.weights
        self._gradients = shards.point_gradients()
        self._precision = Precision(spec.train.precision, device)
        self._delays = None if self._config.inject is None else Delays(self._config.inject, code, port.sender.worker)
        self._phase = -1
        self._version = -1
        self._base_buffers: dict[str, Tensor] = {}

    def serve(self) -> None:
        """Work until the port has no more assignments.

        Raises:
            RecipeError: where user code fails.
        """
        while (assignment := self._port.next_assignment()) is not None:
            self._work(assignment)

    def _work(self, assignment: Assignment) -> None:
        self._effort = _Effort(assignment, planned_s=0.0 if self._delays is None else self._delays.in_round(assignment))
        reports: dict[tuple[int, int], ChunkReport] = {}
        sent: dict[tuple[int, int], Acknowledgement] = {}
        complete = True
        try:
            for task in assignment.tasks:
                work = assignment.work[task.job]
                self._load(work.weights)
                self._turn_to_phase(work.request.phase)
                reports |= self._compute(task, work, assignment)
                arrays = [to_wire(flat, self._config.message_dtype) for flat in self._gradients]
                key = MessageKey(sender=self._port.sender, job=task.job, slot=task.slot)
                sent[task.job, task.slot] = self._port.push(key, arrays)
        except _Stale:
            complete = False
        seconds = self._effort.seconds()
        rejected = tuple(key for key, accepted in sent.items() if not accepted.result())
        self._port.finish(
            Finished(
                sender=self._port.sender,
                round_index=assignment.round_index,
                seconds=seconds,
                reports=reports if complete else {},
                num_elements=self._effort.num_elements,
                rejected=rejected,
                complete=complete,
            )
        )

    def _compute(self, task: Task, work: Work, assignment: Assignment) -> dict[tuple[int, int], ChunkReport]:
        """Leave a task's message in the gradients; what the chunks reported."""
        for flat in self._gradients:
            flat.zero_()
        return {
            (task.job, chunk): self._compute_chunk(chunk, coefficient, work, assignment)
            for chunk, coefficient in zip(task.chunks, task.coefficients, strict=True)
        }

    def _compute_chunk(self, chunk: int, coefficient: float, work: Work, assignment: Assignment) -> ChunkReport:
        if self._delays is not None:
            started = time.perf_counter()
            self._port.sleep(self._delays.before(chunk, assignment))
            self._effort.slept_s += time.perf_counter() - started
        # As the rank of the same number would draw under all-reduce, whichever worker computes the chunk.
        seed_everything(self._seed, work.request.step, chunk)
        weight = 0.0
        metrics: dict[str, float] = {}
        for micro in self._reader.micro_batches(work.request, chunk, assignment.chunk_weights):
            if self._port.is_stale():
                self._restore_buffers()
                raise _Stale
            value, weighted = weighted_loss(self._model, micro, self._loss, self._precision)
            # The backward is linear: a coefficient on the loss is one on the chunk's gradient.
            (value * coefficient).backward()
            weight += micro.weight
            for name, metric in weighted.items():
                metrics[name] = metrics.get(name, 0.0) + float(metric)
            self._effort.num_elements += num_elements(micro.batch)
            self._effort.done += micro.weight
        changed = self._restore_buffers()
        return ChunkReport(weight=weight, metrics=metrics, buffers=changed if chunk == OWNER_CHUNK else {})

    def _turn_to_phase(self, phase: int) -> None:
        if phase == self._phase:
            return
        spec = self._phases[phase]
        source = read_source(spec, self._code)
        self._loss = CheckedLoss(source.recipe, self._code)
        self._reader = ChunkReader(
            source.train_set,
            getattr(source.recipe, "collate", None),
            seed=phase_seed(self._seed, phase),
            device=self._device,
            code_folder=self._code,
        )
        self._phase = phase

    def _load(self, weights: Publication) -> None:
        """Take over a version of the weights."""
        if weights.version == self._version:
            return
        if self._version < 0:
            _copy_into(self._model, self._port.fetch(weights.unchanging))
        for flat, handle in zip(self._weights, weights.flats, strict=True):
            flat.copy_(torch.from_numpy(self._port.fetch(handle)))
        _copy_into(self._model, weights.buffers)
        self._base_buffers = {name: buffer.clone() for name, buffer in self._model.named_buffers()}
        self._version = weights.version

    def _restore_buffers(self) -> dict[str, NDArray[Any]]:
        """Put the buffers back to those of the version, so that chunks do not see each other; those that differed."""
        changed = {}
        for name, buffer in self._model.named_buffers():
            base = self._base_buffers[name]
            if not torch.equal(buffer, base):
                changed[name] = buffer.cpu().numpy().copy()
                buffer.copy_(base)
        return changed


@torch.no_grad()
def _copy_into(model: nn.Module, arrays: Mapping[str, NDArray[np.generic]]) -> None:
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name, array in arrays.items():
        tensors[name].copy_(torch.from_numpy(array))
