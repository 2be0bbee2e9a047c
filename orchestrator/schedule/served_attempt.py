"""One life of a served job: shards that train, workers that compute for them and are replaced when they die."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from orchestrator.core.run_directory import RunDirectory
from orchestrator.core.served import Lost, Sender
from orchestrator.core.values import Failure
from orchestrator.schedule.attempt import Attempt, Ended, ended, on_nodes
from orchestrator.schedule.cluster import LEAST_SHARD_CPUS
from orchestrator.schedule.policy import first_cause
from orchestrator.schedule.queue.values import Use
from orchestrator.schedule.served_actors import PULL_THREADS, SHARD_THREADS, WORKER_THREADS, ShardActor, WorkerActor
from orchestrator.spec.job import JobSpec
from orchestrator.spec.methods.asynchronous import Asynchronous
from orchestrator.spec.methods.served import Served

_PLACEMENT_TIMEOUT_S = 180.0
_JOIN_TIMEOUT_S = 600.0
"""Between a replacement's start and its first assignment it imports the recipe and builds the models."""
_POLL_S = 0.2
_LOOK_S = 2.0
"""Between two looks for workers that hang."""
_AFTERMATH_S = 1.0
"""Who loses its neighbor fails a moment later; what failed first explains it."""
MAX_DEATHS_IN_A_ROW = 5
"""A worker that dies so many times in a row within its first round will not live longer the next time."""


@dataclass(slots=True)
class _Worker:
    actor: Any
    sender: Sender
    placed: Any
    """The answer from where it runs."""
    started: float = field(default_factory=time.monotonic)
    node: str = ""
    watches_node: bool = False
    """Whether the node's system metrics are this worker's to send."""
    deaths_in_a_row: int = 0


class ServedAttempt(Attempt):
    """Places shards and workers, watches them, and replaces dead workers without ending the attempt.

    Args:
        directory: the job's run directory.
        number: the attempt, from 1.
        spec: the job; its exchange is a served one.
        env: environment of the processes.
        arguments: ``run_directory``, ``attempt``, ``tracking_uri`` and ``mlflow_run_id``.
        place: where workers and shards go; None leaves it to Ray.
    """

    def __init__(
        self,
        directory: RunDirectory,
        number: int,
        spec: JobSpec,
        env: dict[str, str],
        arguments: dict[str, Any],
        place: Sequence[Use] | None = None,
    ) -> None:
        super().__init__(directory, number, first_log="shard_0.log")
        assert isinstance(spec.exchange, Served)  # the driver has looked
        self._directory = directory
        self._resources = spec.resources
        self._exchange = spec.exchange
        self._env = env
        self._arguments = arguments
        self._uses = place or ()
        self._groups: list[Any] = []
        self._shards: list[Any] = []
        self._workers: dict[int, _Worker] = {}
        self._runs: dict[Any, Sender | int] = {}
        """What to wait for: the run of a worker's life, or of a shard, by its number."""
        self._watched_nodes: set[str] = set()
        self._expected: set[Sender] = set()
        """Lives that have been started and have not joined."""
        self._looked = time.monotonic()

    def _run(self) -> Ended | Failure:
        try:
            self._place()
            if (failure := self._start()) is not None:
                return failure
            while (result := self._watch()) is None:
                pass
            return result
        except (RayActorError, OutOfMemoryError) as error:
            # Of a shard: the others and the workers cannot go on without its tensors.
            return Failure(cause="worker_lost", message="a shard disappeared", details=str(error))
        finally:
            for actor in [*(worker.actor for worker in self._workers.values()), *self._shards]:
                ray.kill(actor)
            for group in self._groups:
                remove_placement_group(group)

    def _place(self) -> None:
        resources, exchange = self._resources, self._exchange
        worker = {"CPU": resources.cpus_per_worker, "GPU": resources.gpus_per_worker}
        self._groups = [
            placement_group(
                [worker] * resources.num_workers,
                strategy=resources.placement.upper(),
                bundle_label_selector=on_nodes(use.node for use in self._uses for _ in range(use.workers)),
            ),
            # Apart from the workers' strategy: one worker per node does not mean one shard per node.
            placement_group(
                [{"CPU": max(exchange.cpus_per_shard, LEAST_SHARD_CPUS)}] * exchange.shards,
                strategy="PACK",
                bundle_label_selector=on_nodes(use.node for use in self._uses for _ in range(use.shards)),
            ),
        ]
        ready = [group.ready() for group in self._groups]
        if len(ray.wait(ready, num_returns=len(ready), timeout=_PLACEMENT_TIMEOUT_S)[0]) < len(ready):
            raise TimeoutError(f"workers and shards were not placed within {_PLACEMENT_TIMEOUT_S:g} s")

    def _start(self) -> Failure | None:
        """Start everybody; a failure where a worker dies meanwhile."""
        exchange = self._exchange
        shard_class = ray.remote(max_concurrency=SHARD_THREADS + 1, concurrency_groups={"pull": PULL_THREADS})(
            ShardActor
        )
        self._shards = [
            shard_class.options(
                num_cpus=max(exchange.cpus_per_shard, LEAST_SHARD_CPUS), **self._placed(1, shard)
            ).remote()
            for shard in range(exchange.shards)
        ]
        addresses = ray.get([shard.address.remote() for shard in self._shards])
        self._watched_nodes.update(node for node, _ in addresses)
        senders = [Sender(worker=worker, incarnation=0) for worker in range(self._resources.num_workers)]
        self._workers = {sender.worker: self._new_worker(sender) for sender in senders}
        nodes = []
        for number, worker in self._workers.items():
            try:
                nodes.append(ray.get(worker.placed))
            except (RayActorError, OutOfMemoryError) as error:
                message = f"worker {number} died before it had started"
                return Failure(cause="worker_lost", message=message, rank=number, details=str(error))
        config = {**self._arguments, "rendezvous": f"tcp://{addresses[0][1]}"}
        for number, shard in enumerate(self._shards):
            self._runs[shard.run.remote(config, number, self._shards, nodes)] = number
        for worker, node in zip(self._workers.values(), nodes, strict=True):
            worker.node, worker.watches_node = node, node not in self._watched_nodes
            self._watched_nodes.add(node)
            self._run_worker(worker)
        return None

    def _placed(self, group: int, bundle: int) -> dict[str, Any]:
        strategy = PlacementGroupSchedulingStrategy(self._groups[group], placement_group_bundle_index=bundle)
        return {"scheduling_strategy": strategy, "runtime_env": {"env_vars": self._env} if self._env else None}

    def _new_worker(self, sender: Sender) -> _Worker:
        worker_class = ray.remote(max_concurrency=WORKER_THREADS)(WorkerActor)
        actor = worker_class.options(
            num_cpus=self._resources.cpus_per_worker,
            num_gpus=self._resources.gpus_per_worker,
            **self._placed(0, sender.worker),
        ).remote(has_leases=isinstance(self._exchange, Asynchronous))
        ray.get(self._shards[0].set_worker.remote(sender.worker, actor))
        return _Worker(actor=actor, sender=sender, placed=actor.place.remote())

    def _run_worker(self, worker: _Worker) -> None:
        config = {**self._arguments, "watches_node": worker.watches_node}
        self._expected.add(worker.sender)
        self._runs[worker.actor.run.remote(config, worker.sender, self._shards)] = worker.sender

    def _watch(self) -> Ended | Failure | None:
        """Wait a moment for something to end; what ends the attempt, or None."""
        done, _ = ray.wait(list(self._runs), timeout=_POLL_S)
        self._note_joined()
        for run in done:
            process = self._runs.pop(run)
            try:
                value = ray.get(run)
            except RayTaskError:
                return self._explain()
            except (RayActorError, OutOfMemoryError):
                if isinstance(process, int):
                    raise
                if (failure := self._replace(process)) is not None:
                    return failure
            else:
                if process == 0:
                    return ended(value)
        return self._look_around()

    def _look_around(self) -> Failure | None:
        """Now and then: replace workers that hang; a failure where a replacement does not come."""
        if time.monotonic() - self._looked < _LOOK_S:
            return None
        self._looked = time.monotonic()
        for sender in ray.get(self._shards[0].overdue.remote()):
            run = next((run for run, process in self._runs.items() if process == sender), None)
            if run is None:
                continue  # it has ended by itself
            del self._runs[run]
            self._event("worker_hung", sender, self._workers[sender.worker].node)
            if (failure := self._replace(sender)) is not None:
                return failure
        for sender in (sender for sender in self._expected if sender.incarnation):
            worker = self._workers[sender.worker]
            is_placed = bool(ray.wait([worker.placed], timeout=0)[0])
            limit_s = _JOIN_TIMEOUT_S if is_placed else _PLACEMENT_TIMEOUT_S
            if time.monotonic() - worker.started > limit_s:
                message = (
                    f"the replacement of worker {sender.worker} was not {'ready' if is_placed else 'placed'} "
                    f"within {limit_s:g} s"
                )
                return Failure(cause="worker_lost", message=message, rank=sender.worker)
        return None

    def _note_joined(self) -> None:
        """Look who of those that were started has joined since; replacements are worth an event."""
        if not self._expected:
            return
        for sender in self._expected & ray.get(self._shards[0].joined.remote()):
            self._expected.discard(sender)
            if sender.incarnation:
                node = self._workers[sender.worker].node
                self._event("worker_replaced", sender, node)

    def _event(self, name: str, sender: Sender, node: str) -> None:
        self._directory.event(name, {"worker": sender.worker, "node": node, "life": sender.incarnation + 1})

    def _replace(self, sender: Sender) -> Failure | None:
        """Start the next life of a worker; a failure where none works through a round."""
        old = self._workers[sender.worker]
        coordinator = self._shards[0]
        self._note_joined()
        has_worked = ray.get(coordinator.has_worked.remote(sender))
        deaths_in_a_row = 0 if has_worked else old.deaths_in_a_row + 1
        self._expected.discard(sender)
        self._event("worker_lost", sender, old.node)
        if deaths_in_a_row == MAX_DEATHS_IN_A_ROW:
            message = (
                f"worker {sender.worker} died {deaths_in_a_row} times in a row before it had worked through a round"
            )
            return Failure(cause="worker_lost", message=message, rank=sender.worker)
        ray.kill(old.actor)  # may live on behind a broken connection, and holds its place
        ray.get(coordinator.notify.remote(Lost(sender)))
        worker = self._new_worker(replace(sender, incarnation=sender.incarnation + 1))
        worker.node, worker.deaths_in_a_row, worker.watches_node = old.node, deaths_in_a_row, old.watches_node
        self._workers[sender.worker] = worker
        self._run_worker(worker)
        return None

    def _explain(self) -> Failure:
        """Why processes have failed: the first cause among those that end within a moment of each other."""
        done, _ = ray.wait(list(self._runs), num_returns=len(self._runs), timeout=_AFTERMATH_S)
        for run in (run for run in done if isinstance(self._runs[run], int)):
            with suppress(RayTaskError):
                ray.get(run)  # a shard that is gone explains whatever its workers say
        notes = [self._note_of(f"shard_{shard}", None) for shard in range(self._exchange.shards)]
        notes += [self._note_of(f"rank_{worker}", worker) for worker in self._workers]
        failures = [note[1] for note in notes if note is not None]
        if not failures:
            return Failure(cause="worker_crash", message="a process failed before it could say why")
        return first_cause(failures)
