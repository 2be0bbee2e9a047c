"""What the shared queue is told and what it answers. Values only: no Ray, no clock."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

UNIT = 10_000
"""Resources are counted in ten-thousandths, as Ray counts them: sums and differences stay exact."""


def units(amount: float) -> int:
    """An amount of CPUs or GPUs in ten-thousandths."""
    return round(amount * UNIT)


def amount_text(amount: int) -> str:
    """Ten-thousandths as people write the amount."""
    return f"{amount / UNIT:g}"


@dataclass(frozen=True, slots=True)
class Demand:
    """What a job needs at once, or not at all. CPUs and GPUs in ten-thousandths."""

    workers: int
    cpu: int
    """Of each worker, at least 1."""
    gpu: int = 0
    """Of each worker."""
    placement: str = "pack"
    """Ray's placement strategy: pack, spread, strict_pack or strict_spread."""
    shards: int = 0
    shard_cpu: int = 0
    """Of each shard, at least 1 where there are shards."""

    @property
    def total_cpu(self) -> int:
        """CPUs of all workers and shards."""
        return self.workers * self.cpu + self.shards * self.shard_cpu

    @property
    def total_gpu(self) -> int:
        """GPUs of all workers."""
        return self.workers * self.gpu

    def held_by(self, uses: Iterable[Use]) -> Demand:
        """The same for the workers of a place, which may be more than are needed."""
        return replace(self, workers=sum(use.workers for use in uses))


@dataclass(frozen=True, slots=True)
class Quota:
    """The most that one owner's jobs may hold together, in ten-thousandths; None is no limit."""

    gpu: int | None = None
    cpu: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A job that wants a place, or has one."""

    key: str
    """Tells jobs apart: the run directory."""
    name: str
    """What people call it."""
    demand: Demand
    """Of a range of workers, that of the least number."""
    submitted: float
    """Seconds since the epoch; of two jobs of one priority, the earlier goes first."""
    priority: int = 0
    """Higher goes first."""
    owner: str = ""
    account: str = ""
    """Whose quota it counts against: the owner, within one storage."""
    quota: Quota = Quota()
    """Of the account, as the job's driver has read it; what was told last counts for all jobs of the account."""
    preemptible: bool = False
    """Whether it can leave with a checkpoint and lose no step."""
    max_workers: int = 0
    """The most workers that it takes where there is room; 0 for no more than it needs."""
    wanted_workers: int | None = None
    """Of these the most that it asks for at present, which its driver may tell anew; None for all."""


@dataclass(frozen=True, slots=True)
class Use:
    """What a grant takes of one node."""

    node: str
    workers: int
    shards: int = 0


@dataclass(frozen=True, slots=True)
class NodeState:
    """One live node, in ten-thousandths."""

    node: str
    cpu: int
    gpu: int
    free_cpu: int
    """What Ray has not given to anybody."""
    free_gpu: int


@dataclass(frozen=True, slots=True)
class Granted:
    """A job may start."""

    key: str
    uses: tuple[Use, ...]
    waited_s: float
    """Since it was submitted, or gave its last place back."""
    backfilled: bool
    """Whether it goes ahead of a job that waits and that it cannot delay."""


@dataclass(frozen=True, slots=True)
class Preempt:
    """A job is to make room: to save a checkpoint, give its place back and wait again."""

    key: str
    for_key: str
    """The job that is to start in its place."""


@dataclass(frozen=True, slots=True)
class Grown:
    """A job that runs has room for more workers: it is to save a checkpoint and go on with all of them."""

    key: str
    uses: tuple[Use, ...]
    """Its whole place: what it had, and more."""


Decision = Granted | Preempt | Grown
