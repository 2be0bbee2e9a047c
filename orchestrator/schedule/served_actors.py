"""Ray actors around the served topology: they carry values between processes and decide nothing.

A shard's and a worker's training runs in one thread of its actor; the other threads take messages.
"""

from __future__ import annotations

import importlib
import socket
import threading
from collections.abc import Sequence
from typing import Any

import ray

from orchestrator.core.lease_box import LeaseBox
from orchestrator.core.links import ShardLinks
from orchestrator.core.mailbox import Mailbox
from orchestrator.core.served import (
    Assignment,
    Event,
    Finished,
    Handle,
    Joined,
    Lease,
    MessageKey,
    Publication,
    Pushed,
    Sender,
)
from orchestrator.schedule.worker import node_name

SHARD_THREADS = 16
"""Messages that a shard takes at a time, beside its training."""
PULL_THREADS = 4
"""Workers that a shard tells the newest weights at a time."""
WORKER_THREADS = 3
"""A worker's training, its newest assignment, and a call that ends it."""


class ShardActor:
    """One shard: it satisfies ``ShardPort`` for the training that runs in it."""

    def __init__(self) -> None:
        self._workers: dict[int, Any] = {}
        self._joined: set[Sender] = set()
        self._worked: set[Sender] = set()
        self._overdue: set[Sender] = set()
        self._offers: dict[tuple[int, int], dict[int, Handle]] = {}
        self._offered = threading.Condition()

    def address(self) -> tuple[str, str]:
        """This shard's node, and a free ``host:port`` on it."""
        with socket.socket() as free:
            free.bind(("", 0))
            return node_name(), f"{ray.util.get_node_ip_address()}:{free.getsockname()[1]}"

    def run(self, config: dict[str, Any], shard: int, shards: Sequence[Any], worker_nodes: Sequence[str]) -> Any:
        """Train as this shard to the end of the attempt."""
        self._shard = shard
        self._coordinator = shards[0]
        self._num_shards = len(shards)
        self._links = ShardLinks(port=self, nodes=tuple(worker_nodes))
        main = importlib.import_module("orchestrator.train.shard").main
        return main(**config, node=node_name(), shard=shard, links=self._links)

    def set_worker(self, worker: int, actor: Any) -> None:
        """Remember where assignments of a worker go."""
        self._workers[worker] = actor

    def notify(self, event: Event) -> None:
        """Tell the coordinator; called on the shard of rank 0."""
        if isinstance(event, Joined):
            self._joined.add(event.sender)
        elif isinstance(event, Finished | Pushed):
            self._worked.add(event.sender)
        self._links.events.put(event)

    def joined(self) -> set[Sender]:
        """The lives of workers that have come as far as to join."""
        return set(self._joined)  # pickled while another may join

    def has_worked(self, sender: Sender) -> bool:
        """Whether this life of a worker has come to the end of a round."""
        return sender in self._worked

    def overdue(self) -> set[Sender]:
        """The lives of workers that have held up a round for too long."""
        return set(self._overdue)

    def deliver(self, key: MessageKey, message: Any) -> bool:
        """Take a message; False where it is refused."""
        return self._links.store.put(key, message)

    def offer(self, version: tuple[int, int], shard: int, handles: list[Handle]) -> None:
        """Take another shard's handle of a version; called on the shard of rank 0."""
        with self._offered:
            self._offers.setdefault(version, {})[shard] = handles[0]
            self._offered.notify_all()

    @ray.method(concurrency_group="pull")  # type: ignore[untyped-decorator]  # a pull never queues behind pushes
    def newest(self, worker: int) -> Publication:
        """The newest weights, for a worker; called on the shard of rank 0."""
        return self._links.newest.get(worker)

    def fetch(self, handle: Handle) -> Any:
        """See ``ShardPort``."""
        return ray.get(handle)

    def publish(self, value: Any) -> Handle:
        """See ``ShardPort``."""
        return ray.put(value)

    def gather_handles(self, version: tuple[int, int], handle: Handle) -> tuple[Handle, ...]:
        """See ``ShardPort``."""
        if self._shard > 0:
            # In a list: Ray would hand over what a bare handle stands for.
            self._coordinator.offer.remote(version, self._shard, [handle])
            return ()
        with self._offered:
            self._offered.wait_for(lambda: len(self._offers.get(version, ())) == self._num_shards - 1)
            others = self._offers.pop(version, {})
        return tuple(handle if shard == 0 else others[shard] for shard in range(self._num_shards))

    def assign(self, worker: int, assignment: Assignment | Lease) -> None:
        """See ``ShardPort``."""
        self._workers[worker].assign.remote(assignment)

    def end_worker(self, sender: Sender) -> None:
        """See ``ShardPort``."""
        self._overdue.add(sender)


class WorkerActor:
    """One life of one worker, which is given assignments or leases."""

    def __init__(self, *, has_leases: bool) -> None:
        self._mailbox: Any = LeaseBox() if has_leases else Mailbox()

    def place(self) -> str:
        """This worker's node."""
        return node_name()

    def assign(self, assignment: Assignment | Lease) -> None:
        """Take the newest assignment, or one more lease."""
        self._mailbox.put(assignment)

    def run(self, config: dict[str, Any], sender: Sender, shards: Sequence[Any]) -> None:
        """Compute until the process is ended."""
        main = importlib.import_module("orchestrator.train.worker").main
        port = RayWorkerPort(sender, self._mailbox, shards)
        main(**config, node=node_name(), port=port, on_ready=port.join)


class RayWorkerPort:
    """Satisfies ``WorkerPort`` and ``LeasePort``, by what is in the mailbox."""

    def __init__(self, sender: Sender, mailbox: Any, shards: Sequence[Any]) -> None:
        self.sender = sender
        self.next_assignment = mailbox.take
        self.is_stale = mailbox.is_stale
        self.sleep = mailbox.sleep
        self._shards = shards

    def join(self) -> None:
        """Tell the coordinator that assignments may come."""
        self._shards[0].notify.remote(Joined(self.sender))

    def fetch(self, handle: Handle) -> Any:
        """What was published: arrays are read-only views of the node's shared memory."""
        return ray.get(handle)

    def newest(self) -> Publication:
        """See ``LeasePort``."""
        publication: Publication = ray.get(self._shards[0].newest.remote(self.sender.worker))
        return publication

    def push(self, key: MessageKey, arrays: Sequence[Any]) -> _Pushed:
        """See ``WorkerPort``; Ray has copied the arrays when this returns."""
        return _Pushed([shard.deliver.remote(key, array) for shard, array in zip(self._shards, arrays, strict=True)])

    def finish(self, finished: Finished | Pushed) -> None:
        """See ``WorkerPort`` and ``LeasePort``."""
        self._shards[0].notify.remote(finished)


class _Pushed:
    """Satisfies ``Acknowledgement``."""

    def __init__(self, answers: list[Any]) -> None:
        self._answers = answers

    def result(self) -> bool:
        """See ``Acknowledgement``."""
        return all(ray.get(self._answers))
