"""A served job in one process: workers are threads, the shard trains in the calling one. No Ray."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from numpy.typing import NDArray
from support import ListTracker, context_here

from orchestrator.core.lease_box import LeaseBox
from orchestrator.core.links import ShardLinks
from orchestrator.core.mailbox import Mailbox
from orchestrator.core.message_store import MessageStore
from orchestrator.core.run_directory import RunDirectory
from orchestrator.core.served import (
    Assignment,
    Finished,
    Joined,
    Lease,
    Lost,
    MessageKey,
    Publication,
    Pushed,
    Sender,
)
from orchestrator.exchange.served.place import ServedPlace
from orchestrator.spec.job import JobSpec
from orchestrator.spec.load import load_recipe_job
from orchestrator.spec.methods.asynchronous import Asynchronous
from orchestrator.spec.methods.coded import Coded
from orchestrator.spec.sweep import trials_of
from orchestrator.train.assemble import assemble
from orchestrator.train.chunk_worker import ChunkWorker
from orchestrator.train.export import export_weights
from orchestrator.train.lease_worker import LeaseWorker
from orchestrator.train.phases import train_phases
from orchestrator.train.shard import TrialFailures, open_pushes, open_rounds, train_side_by_side

Hook = Callable[["ThreadPort", MessageKey, NDArray[Any]], NDArray[Any]]


class Died(Exception):
    """A worker thread that plays dead."""


class ThreadPort:
    """Satisfies ``WorkerPort``; ``on_push`` may change a message, wait, or raise ``Died``."""

    def __init__(self, sender: Sender, links: ShardLinks, on_push: Hook | None, *, has_leases: bool) -> None:
        self.sender = sender
        self.mailbox: Any = LeaseBox() if has_leases else Mailbox()
        self._links = links
        self._on_push = on_push
        self.next_assignment = self.mailbox.take
        self.is_stale = self.mailbox.is_stale
        self.sleep = self.mailbox.sleep

    def fetch(self, handle: Any) -> Any:
        return handle

    def newest(self) -> Publication:
        return self._links.newest.get(self.sender.worker)

    def push(self, key: MessageKey, arrays: Sequence[NDArray[Any]]) -> Future[bool]:
        (array,) = arrays
        sent = array.copy()
        if self._on_push is not None:
            sent = self._on_push(self, key, sent)
        future: Future[bool] = Future()
        future.set_result(self._links.store.put(key, sent))
        return future

    def finish(self, finished: Finished | Pushed) -> None:
        self._links.events.put(finished)


class Cluster:
    """Starts worker threads and replaces those that die. Satisfies ``ShardPort``."""

    def __init__(self, spec: JobSpec, directory: RunDirectory, *, on_push: Hook | None = None) -> None:
        self._spec = spec
        self._directory = directory
        self._on_push = on_push
        self.links = ShardLinks(
            port=self, nodes=("here",) * spec.resources.num_workers, store=MessageStore(), events=queue.SimpleQueue()
        )
        self.ports: dict[int, ThreadPort] = {}
        self.num_deaths = 0
        self._threads: list[threading.Thread] = []
        self._build = threading.Lock()

    def start(self) -> None:
        for worker in range(self._spec.resources.num_workers):
            self._start(Sender(worker=worker, incarnation=0))

    def _start(self, sender: Sender) -> None:
        has_leases = isinstance(self._spec.exchange, Asynchronous)
        port = ThreadPort(sender, self.links, self._on_push, has_leases=has_leases)
        self.ports[sender.worker] = port
        thread = threading.Thread(target=self._work, args=(port,), daemon=True)
        self._threads.append(thread)
        thread.start()

    def _work(self, port: ThreadPort) -> None:
        torch.set_num_threads(1)
        with self._build:
            kind = LeaseWorker if isinstance(self._spec.exchange, Asynchronous) else ChunkWorker
            worker = kind(self._spec, self._directory.code, port, torch.device("cpu"))
        self.links.events.put(Joined(port.sender))
        try:
            worker.serve()
        except Died:
            self.num_deaths += 1
            self.links.events.put(Lost(port.sender))
            self._start(replace(port.sender, incarnation=port.sender.incarnation + 1))

    def stop(self) -> None:
        for port in self.ports.values():
            port.mailbox.close()
        for thread in self._threads:
            thread.join(timeout=20)
            assert not thread.is_alive()

    def publish(self, value: Any) -> Any:
        return value.copy()

    def gather_handles(self, version: int, handle: Any) -> tuple[Any, ...]:
        return (handle,)

    def fetch(self, handle: Any) -> Any:
        return handle

    def assign(self, worker: int, assignment: Assignment | Lease) -> None:
        self.ports[worker].mailbox.put(assignment)

    def end_worker(self, sender: Sender) -> None:
        raise AssertionError(f"{sender} hangs")


def train_served(directory: RunDirectory, *, on_push: Hook | None = None) -> tuple[str, ListTracker, Cluster]:
    """Train the prepared job with worker threads; leaves ``model.safetensors``."""
    ((outcome, tracker),), cluster = train_models(directory, [directory], on_push=on_push)
    return outcome, tracker, cluster


def train_models(
    directory: RunDirectory, trials: Sequence[RunDirectory], *, on_push: Hook | None = None
) -> tuple[list[tuple[str, ListTracker]], Cluster]:
    """Train the models of a prepared job side by side, one for each trial; leaves every ``model.safetensors``.

    Raises:
        DivergedError: of a job without trials; a trial has the outcome "diverged".
    """
    spec = load_recipe_job(directory.resolved_spec)
    cluster = Cluster(spec, directory, on_push=on_push)
    is_coded = isinstance(spec.exchange, Coded)
    rounds = open_rounds(spec, directory, list(trials), cluster.links) if is_coded else None
    pushes = None if is_coded else open_pushes(spec, directory, cluster.links)
    base = context_here(str(directory.root))
    trainings = []
    for model, (trial, trial_spec) in enumerate(zip(trials, trials_of(spec), strict=True)):
        tracker = ListTracker()
        place = ServedPlace(links=cluster.links, rounds=rounds, pushes=pushes, model=model)
        context = replace(base, run_directory=trial, served=place)
        trainings.append((assemble(trial_spec, context, tracker), context, tracker))
    outcomes = ["diverged"] * len(trials)

    def train(model: int) -> dict[str, Any]:
        outcomes[model], step = train_phases(*trainings[model])
        export_weights(trials[model].checkpoints / f"step_{step}", trials[model].model_file)
        return {"outcome": outcomes[model], "step": step}

    cluster.start()  # after the shard's models are made: the threads share torch's generator
    try:
        if spec.sweep:
            train_side_by_side([partial(train, model) for model in range(len(trials))], TrialFailures(directory, 1))
        else:
            train(0)
    finally:
        cluster.stop()
    return [(outcome, tracker) for outcome, (_, _, tracker) in zip(outcomes, trainings, strict=True)], cluster
