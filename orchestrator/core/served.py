"""The served topology: workers pull assignments and push gradients; shards own tensors, one of them coordinates rounds.

The values that travel, and the two ports through which training code reaches whatever carries them. No Ray here: the
``schedule`` room carries them between actors, tests between threads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from numpy.typing import NDArray

from orchestrator.core.coding.scheme import Task

Handle = Any
"""What stands for published arrays until somebody fetches them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundRequest:
    """The samples of one update, as the loop asks for them."""

    model: int
    """Which of the models that share the workers, from 0."""
    phase: int
    """Phase of the training, from 0."""
    step: int
    """Optimizer steps taken before this one."""
    position: int
    """Samples taken since the start of the phase before this step."""
    num_samples: int
    """Samples of the step over all chunks."""
    num_counted: int
    """Samples that a mean of the step is over; fewer than those drawn where some are spare."""
    micro_batch_size: int | None
    """Most samples of one backward; None takes a chunk at once."""
    measures_modules: bool = False
    """Whether workers tell how long the gradients of the model's modules are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """The weights of one version, put down once where every worker can read them."""

    version: int
    """Updates of the model in this attempt."""
    flats: tuple[Handle, ...]
    """One flat array of trainable parameters for each shard."""
    unchanging: Handle
    """Everything else that the model holds, as it was when the attempt began: arrays by name."""
    buffers: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """Buffers that have changed since then, by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What one job needs of a worker."""

    request: RoundRequest
    weights: Publication


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """What one worker is to do in one round; a newer one replaces it, whatever has become of it."""

    round_index: int
    """Counts the rounds of an attempt."""
    tasks: tuple[Task, ...]
    work: Mapping[int, Work]
    """By job, for every job among the tasks."""
    chunk_weights: tuple[int, ...]
    """Relative size of each chunk of a job's batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """Who sends: a worker, and which of its lives."""

    worker: int
    incarnation: int
    """Lives of this worker in this attempt, from 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageKey:
    """Which message it is. The same key twice is the same message twice."""

    sender: Sender
    job: int
    slot: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleSquares:
    """How long the gradients of some groups of samples are, module by module."""

    sums: tuple[float, ...]
    """(n_k / B) |g_k|^2 of each module, summed over the groups."""
    num_groups: int

    def __add__(self, other: ModuleSquares) -> ModuleSquares:
        """Of both."""
        sums = tuple(one + two for one, two in zip(self.sums, other.sums, strict=True))
        return ModuleSquares(sums=sums, num_groups=self.num_groups + other.num_groups)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkReport:
    """What a worker found out about one chunk besides its gradient."""

    weight: float
    """The chunk's share of the batch."""
    metrics: Mapping[str, float]
    """The loss and the recipe's metrics, each times that share."""
    buffers: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """Buffers that the chunk's forward has changed, from the one chunk that owns them."""
    squares: ModuleSquares | None = None
    """Of its micro-batches; None where they were not asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A worker has sent all messages of a round, or has left it for a newer one."""

    sender: Sender
    round_index: int
    seconds: float
    """From the assignment's arrival to its end, waiting for nobody; estimated where it left the round."""
    reports: Mapping[tuple[int, int], ChunkReport]
    """By (job, chunk); empty where it left the round."""
    num_elements: int
    """Tensor elements of its micro-batches."""
    sent: tuple[tuple[int, int], ...] = ()
    """(job, slot) of messages that all shards have taken."""
    rejected: tuple[tuple[int, int], ...] = ()
    """(job, slot) of messages that a shard has refused: not finite."""
    complete: bool = True
    """False where the worker left the round."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """What one worker is to do in asynchronous training: one gradient, which nobody else computes meanwhile."""

    number: int
    """Counts the leases of an attempt."""
    chunk: int
    """Which piece of the phase's samples, from 0."""
    request: RoundRequest
    """Its samples; its step is the chunk, which random numbers are keyed by."""
    weights: Publication | None
    """Which weights; None are the newest when the worker begins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed:
    """All shards have answered a worker's push."""

    sender: Sender
    lease: int
    chunk: int
    read_version: int
    """Version of the weights that the gradient was computed at."""
    seconds: float
    """What the worker took to compute it."""
    num_elements: int
    """Tensor elements of its micro-batches."""
    report: ChunkReport
    is_taken: bool
    """False where a shard has refused the gradient: it is not finite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptedPush:
    """A push that is part of an update."""

    key: MessageKey
    chunk: int
    read_version: int
    delay: int
    """Updates since that version."""
    share: float
    """Of the update's samples."""
    report: ChunkReport


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """What one optimizer step takes; the same on all shards."""

    pushes: tuple[AcceptedPush, ...]
    num_samples: int
    dropped: tuple[int, ...]
    """Leases whose messages nobody will use."""
    reads: frozenset[int]
    """Versions that pushes which have not been taken yet were computed at, as far as the coordinator knows."""
    facts: Mapping[str, float]
    """Of pushes that were refused so far, for the metrics."""


@dataclass(frozen=True, slots=True)
class Joined:
    """A worker is there, for the first time or again."""

    sender: Sender


@dataclass(frozen=True, slots=True)
class Lost:
    """A worker has disappeared."""

    sender: Sender


@dataclass(frozen=True, slots=True)
class Submitted:
    """A job may begin."""

    job: int
    work: Work


@dataclass(frozen=True, slots=True)
class Retired:
    """A model trains no further."""

    model: int


Event: TypeAlias = Joined | Lost | Finished | Pushed | Submitted | Retired
"""What the coordinator is told."""


class Acknowledgement(Protocol):
    """The shards' answer to a message."""

    def result(self) -> bool:
        """Wait until every shard has it: True, or False where one has refused it."""


class WorkerPort(Protocol):
    """A worker's way to the shards."""

    sender: Sender

    def next_assignment(self) -> Assignment | None:
        """Wait for an assignment that is newer than the last one taken; None when there will be none."""

    def is_stale(self) -> bool:
        """Whether a newer assignment waits, or the end."""

    def sleep(self, seconds: float) -> None:
        """Wait, but not beyond the moment at which the assignment becomes stale."""

    def fetch(self, handle: Handle) -> Any:
        """What was published; arrays are read-only views where possible."""

    def push(self, key: MessageKey, arrays: Sequence[NDArray[Any]]) -> Acknowledgement:
        """Send one array to each shard; they may be overwritten as soon as this returns."""

    def finish(self, finished: Finished) -> None:
        """Tell the coordinator."""


class LeasePort(Protocol):
    """A worker's way to the shards in asynchronous training."""

    sender: Sender

    def next_assignment(self) -> Lease | None:
        """Wait for the next lease; None when there will be none."""

    def is_stale(self) -> bool:
        """Whether the end has come."""

    def sleep(self, seconds: float) -> None:
        """Wait, but not beyond the end."""

    def newest(self) -> Publication:
        """The newest weights; asking never queues behind pushes."""

    def fetch(self, handle: Handle) -> Any:
        """See ``WorkerPort``."""

    def push(self, key: MessageKey, arrays: Sequence[NDArray[Any]]) -> Acknowledgement:
        """See ``WorkerPort``."""

    def finish(self, finished: Pushed) -> None:
        """Tell the coordinator."""


class UpdateSource(Protocol):
    """Where the loop's data gets the updates of asynchronous training from; all shards call together."""

    def open(self, request: RoundRequest, ledger: Mapping[str, Any]) -> None:
        """Begin a phase, or go on in it.

        Args:
            request: the whole phase: its number, steps taken, samples, samples of an update, largest micro-batch.
            ledger: what is done of it, as ``ledger`` had it; empty is nothing.
        """

    def next_update(self) -> Update:
        """Wait for the pushes of the next update."""

    def ledger(self) -> Mapping[str, Any]:
        """What is done of the phase, on the shard of rank 0."""


class ShardPort(Protocol):
    """A shard's way to the workers and to the coordinator, which is the shard of rank 0."""

    def publish(self, value: Any) -> Handle:
        """Put arrays down where every worker can fetch them."""

    def gather_handles(self, version: tuple[int, int], handle: Handle) -> tuple[Handle, ...]:
        """Every shard's handle of a (model, version) in rank order on the coordinator, nothing elsewhere.

        Called by all shards.
        """

    def fetch(self, handle: Handle) -> Any:
        """What this shard has published."""

    def assign(self, worker: int, assignment: Assignment | Lease) -> None:
        """Give a worker its newest assignment, or one more lease; does not wait."""

    def end_worker(self, sender: Sender) -> None:
        """Have this life of a worker ended, which answers no more, and another begun; does not wait."""
