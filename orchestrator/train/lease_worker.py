"""A worker of asynchronous training: it computes what it is leased at the newest weights, and pushes as it goes."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import torch

from orchestrator.core.protocols import MicroBatch
from orchestrator.core.served import Acknowledgement, Lease, LeasePort, MessageKey, Pushed
from orchestrator.core.wire import to_wire
from orchestrator.spec.delays import read_delays
from orchestrator.spec.job import JobSpec
from orchestrator.spec.methods.asynchronous import Asynchronous
from orchestrator.train.rank_times import num_elements
from orchestrator.train.worker_model import WorkerModel

_WHOLE = (1,)
"""A lease is one chunk of one part."""


class LeaseWorker:
    """Computes one gradient after the other until there is nothing more.

    With ``overlap`` the next one is computed while the shards still take the last; no more than one is on its way.

    Args:
        spec: the job.
        code: folder of the user's files.
        port: to the shards.
        device: that it computes on.
    """

    def __init__(self, spec: JobSpec, code: Path, port: LeasePort, device: torch.device) -> None:
        assert isinstance(spec.exchange, Asynchronous)  # only this exchange starts such workers
        self._config = spec.exchange
        self._port = port
        self._model = WorkerModel(
            spec,
            code,
            num_shards=spec.exchange.shards,
            device=device,
            fetch=port.fetch,
            begin_micro_batch=self._begin_micro_batch,
        )
        inject = spec.exchange.inject
        rows = [] if inject is None else read_delays(code / inject.delays)
        self._waits = [row[port.sender.worker] for row in rows]
        self._wait_per_sample = 0.0 if inject is None else inject.seconds_per_batch / spec.batch.global_size
        self._num_leases = 0
        self._num_elements = 0

    def serve(self) -> None:
        """Work until the port has no more leases.

        Raises:
            RecipeError: where user code fails.
        """
        with ThreadPoolExecutor(1, thread_name_prefix="acknowledged") as thread:
            on_its_way: Future[None] | None = None
            while (lease := self._port.next_assignment()) is not None:
                pushed = self._compute(lease)
                if on_its_way is not None:
                    on_its_way.result()
                on_its_way = thread.submit(self._finish, self._push(lease), pushed)
                if not self._config.overlap:
                    on_its_way.result()

    def _compute(self, lease: Lease) -> Pushed:
        """Leave the gradient in the model's; what will be said of it once the shards have it."""
        started = time.perf_counter()
        weights = self._port.newest() if lease.weights is None else lease.weights
        self._num_elements = 0
        self._model.prepare(lease.request, weights)
        self._wait(lease)
        report = self._model.compute(lease.request, 0, 1.0, _WHOLE)
        return Pushed(
            sender=self._port.sender,
            lease=lease.number,
            chunk=lease.chunk,
            read_version=weights.version,
            seconds=time.perf_counter() - started,
            num_elements=self._num_elements,
            report=report,
            is_taken=True,
        )

    def _push(self, lease: Lease) -> Acknowledgement:
        arrays = [to_wire(flat, self._config.message_dtype) for flat in self._model.gradients]
        return self._port.push(MessageKey(sender=self._port.sender, job=lease.number, slot=0), arrays)

    def _finish(self, answer: Acknowledgement, pushed: Pushed) -> None:
        self._port.finish(replace(pushed, is_taken=answer.result()))

    def _wait(self, lease: Lease) -> None:
        """Be slow on purpose."""
        if self._waits:
            of_lease = self._waits[self._num_leases % len(self._waits)]
            self._port.sleep(of_lease + self._wait_per_sample * lease.request.num_samples)
        self._num_leases += 1

    def _begin_micro_batch(self, micro: MicroBatch) -> None:
        self._num_elements += num_elements(micro.batch)
