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
class ChunkReport:
    """What a worker found out about one chunk besides its gradient."""

    weight: float
    """The chunk's share of the batch."""
    metrics: Mapping[str, float]
    """The loss and the recipe's metrics, each times that share."""
    buffers: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """Buffers that the chunk's forward has changed, from the one chunk that owns them."""


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


Event: TypeAlias = Joined | Lost | Finished | Submitted | Retired
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


class ShardPort(Protocol):
    """A shard's way to the workers and to the coordinator, which is the shard of rank 0."""

    def publish(self, value: Any) -> Handle:
        """Put arrays down where every worker can fetch them."""

    def gather_handles(self, version: tuple[int, int], handle: Handle) -> tuple[Handle, ...]:
        """Every shard's handle of a (model, version) in rank order on the coordinator, nothing elsewhere.

        Called by all shards.
        """

    def assign(self, worker: int, assignment: Assignment) -> None:
        """Give a worker its newest assignment; does not wait."""

    def end_worker(self, sender: Sender) -> None:
        """Have this life of a worker ended, which answers no more, and another begun; does not wait."""
