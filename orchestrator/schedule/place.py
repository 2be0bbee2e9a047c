"""How a job comes by the nodes that its workers run on: alone on a private cluster, or through the shared queue."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

from orchestrator.core.errors import UsageError
from orchestrator.core.run_directory import RunDirectory
from orchestrator.schedule.cluster import (
    LEAST_SHARD_CPUS,
    Shards,
    Waits,
    admit,
    free_resources,
    shards_of,
    silent_nodes,
    total_resources,
)
from orchestrator.schedule.queue.grow import GROWTH_PAUSE_S, smaller_place
from orchestrator.schedule.queue.seat import Seat
from orchestrator.schedule.queue.values import Demand, Quota, Request, Use, amount_text, units
from orchestrator.spec.elastic import is_elastic
from orchestrator.spec.job import AnyJobSpec, JobSpec
from orchestrator.spec.problems import SpecError
from orchestrator.spec.quotas import OwnerQuota, read_quotas

_SETTLE_S = 10.0
"""How long what an attempt has held may take to be free again; an elastic job waits for it before it starts smaller."""


class Place(Protocol):
    """What the driver asks for a place, and tells about it. Never waits itself."""

    phase: str
    """Of a job that waits for a place."""

    def begin(self) -> None:
        """Before an attempt: a place that is still good is kept, else another one is asked for."""

    def waits_for(self) -> str | None:
        """Why there is no place yet; None with a place."""

    def want(self, num_workers: int) -> None:
        """From now on the job asks for so many workers, and takes no more; at first for all of its range."""

    @property
    def workers(self) -> int:
        """Workers that the place has room for, of those that the job asks for."""

    @property
    def uses(self) -> Sequence[Use] | None:
        """The nodes of the place, in their order; None leaves them to Ray."""

    @property
    def state(self) -> Mapping[str, Any]:
        """What ``state.json`` and the events say about the place or the wait for it."""

    def is_needed_by(self) -> str | None:
        """The more urgent job that needs the place; None where nobody does."""

    def has_room_beyond(self, num_workers: int) -> bool:
        """Whether an attempt with so many workers should be followed by one with more, of a job that may have more."""

    def has_too_many(self, num_workers: int) -> bool:
        """Whether an attempt with so many workers should be followed by one with fewer: no more are asked for."""

    def doubt(self) -> Collection[str]:
        """An attempt has failed: the nodes of the place that answer no more. Another one starts only where all do."""

    def give_back(self) -> None:
        """Somebody else needs the place: wait for another one."""

    def close(self) -> None:
        """The job has ended."""


class OwnPlace:
    """A cluster that nobody else uses.

    Args:
        spec: the job.
    """

    phase = "placing"
    uses = None
    state: Mapping[str, Any] = {}

    def __init__(self, spec: AnyJobSpec) -> None:
        self._resources = spec.resources
        self._shards = shards_of(spec)
        self._wanted = spec.resources.max_workers
        self.workers = spec.resources.num_workers
        """See ``Place``."""
        self._began = self._looked = 0.0

    def begin(self) -> None:
        """See ``Place``."""
        self._began = time.monotonic()

    def waits_for(self) -> str | None:
        """See ``Place``."""
        answer = admit(self._resources, free_resources(), self._shards)
        if isinstance(answer, Waits):
            return answer.reason
        is_early = time.monotonic() - self._began < _SETTLE_S
        if is_early and answer.workers < self._wanted and answer.workers < self._most():
            return f"{answer.workers} workers fit now; the last attempt may not have ended everywhere"
        self.workers, self._looked = min(answer.workers, self._wanted), time.monotonic()
        return None

    def want(self, num_workers: int) -> None:
        """See ``Place``."""
        self._wanted = num_workers

    def has_room_beyond(self, num_workers: int) -> bool:
        """See ``Place``."""
        return num_workers < self._wanted and self._may_change() and self._most() > num_workers

    def has_too_many(self, num_workers: int) -> bool:
        """See ``Place``."""
        return num_workers > self._wanted and self._may_change()

    def _may_change(self) -> bool:
        """Whether it is time to look again."""
        if time.monotonic() - self._looked < GROWTH_PAUSE_S:
            return False
        self._looked = time.monotonic()
        return True

    def _most(self) -> int:
        """Workers that the cluster would take if nothing ran there; no more than the job asks for."""
        answer = admit(self._resources, total_resources(), self._shards)
        return 0 if isinstance(answer, Waits) else min(answer.workers, self._wanted)

    def doubt(self) -> Collection[str]:
        """A node of this machine does not leave it."""
        return ()

    def is_needed_by(self) -> str | None:
        """Nobody else is there."""
        return None

    def give_back(self) -> None:
        """Nobody else is there."""

    def close(self) -> None:
        """The cluster ends with the driver."""


class QueuedPlace:
    """A place of the cluster's shared queue.

    Args:
        spec: the job.
        directory: its run directory.
    """

    phase = "queued"

    def __init__(self, spec: AnyJobSpec, directory: RunDirectory) -> None:
        self._spec = spec
        self._directory = directory
        self._submitted = float(directory.read_state()["created_at"])
        self._wanted = spec.resources.max_workers
        self._quota: Quota | None = None
        self._has_begun = False
        self._is_doubtful = False
        self._seat = Seat(self._request)

    def begin(self) -> None:
        """See ``Place``."""
        answer = self._seat.answer if self._has_begun else None
        self._has_begun = True
        if answer is None or answer.uses is None or answer.makes_room_for is not None:
            self._seat.wait_again()
        elif answer.lost_nodes:
            self._do_without(answer.lost_nodes, answer.uses)
        elif self.workers > self._wanted:
            self._seat.keep(smaller_place(answer.uses, self._wanted, self._spec.resources.placement))

    def waits_for(self) -> str | None:
        """See ``Place``."""
        answer = self._seat.answer
        if answer is None:
            return "the cluster's queue has not answered yet"
        if answer.uses is None:
            return answer.reason
        if self._is_doubtful:
            if answer.lost_nodes:
                self._do_without(answer.lost_nodes, answer.uses)
                return "a node of its place is gone"
            if silent := silent_nodes([use.node for use in answer.uses]):
                # Ray may say for some seconds more that it lives, and the queue might give it to the job again.
                if self._is_enough(_on_others(answer.uses, silent)):
                    self._do_without(silent, answer.uses)
                return f"node {min(silent)[:6]} of its place does not answer"
            self._is_doubtful = False
        return None

    def _do_without(self, nodes: Collection[str], uses: Sequence[Use]) -> None:
        """Keep the rest of the place where it is enough for an elastic job, else wait for another one."""
        left = _on_others(uses, nodes)
        if self._is_enough(left):
            self._seat.keep(left)
        else:
            self._seat.wait_again()

    def _is_enough(self, uses: Sequence[Use]) -> bool:
        return is_elastic(self._spec) and sum(use.workers for use in uses) >= self._spec.resources.num_workers

    @property
    def workers(self) -> int:
        """See ``Place``."""
        return sum(use.workers for use in self.uses or ())

    def has_room_beyond(self, num_workers: int) -> bool:
        """See ``Place``."""
        return min(self.workers, self._wanted) > num_workers

    def want(self, num_workers: int) -> None:
        """See ``Place``."""
        self._wanted = num_workers

    def has_too_many(self, num_workers: int) -> bool:
        """See ``Place``."""
        answer = self._seat.answer
        return num_workers > self._wanted and answer is not None and answer.is_settled

    def doubt(self) -> Collection[str]:
        """See ``Place``."""
        self._is_doubtful = True
        return silent_nodes([use.node for use in self.uses or ()])

    @property
    def uses(self) -> Sequence[Use] | None:
        """See ``Place``."""
        answer = self._seat.answer
        return None if answer is None else answer.uses

    @property
    def state(self) -> Mapping[str, Any]:
        """See ``Place``."""
        answer = self._seat.answer
        demand = demand_of(self._spec)
        if answer is not None and answer.uses is not None:
            demand = demand.held_by(answer.uses)
        fields: dict[str, Any] = {
            "priority": self._spec.queue.priority,
            "owner": self._spec.queue.owner,
            "workers": demand.workers,
            "gpus": float(amount_text(demand.total_gpu)),
            "cpus": float(amount_text(demand.total_cpu)),
        }
        if is_elastic(self._spec):
            fields["max_workers"] = self._spec.resources.max_workers
        if answer is None:
            return fields
        if answer.uses is None:
            return {**fields, "position": answer.position, "waiting": answer.num_waiting}
        nodes: Counter[str] = Counter()
        for use in answer.uses:
            nodes[use.node] += use.workers
        place = {"nodes": dict(nodes), "waited_s": round(answer.waited_s, 3), "backfilled": answer.backfilled}
        return {**fields, "position": 0, "waiting": answer.num_waiting, **place}

    def is_needed_by(self) -> str | None:
        """See ``Place``."""
        answer = self._seat.answer
        if answer is None or answer.makes_room_for is None:
            return None
        return f"{answer.makes_room_for.name} (priority {answer.makes_room_for.priority})"

    def give_back(self) -> None:
        """See ``Place``."""
        self._seat.wait_again()

    def close(self) -> None:
        """See ``Place``."""
        self._seat.close()

    def _request(self) -> Request:
        """The job as the queue is to know it. Called by the seat's thread, again and again: quotas may change.

        Raises:
            UsageError: where ``queue.yaml`` is wrong and never was right; else what was last read goes on to count.
        """
        queue, storage = self._spec.queue, self._directory.storage
        owner = queue.owner or ""
        try:
            self._quota = quota_of(read_quotas(storage).get(owner))
        except SpecError as error:
            if self._quota is None:
                raise UsageError(str(error)) from None
        return Request(
            key=str(self._directory.root),
            name=self._spec.name,
            demand=demand_of(self._spec),
            submitted=self._submitted,
            priority=queue.priority,
            owner=owner,
            account=f"{storage}:{owner}",
            quota=self._quota,
            # A script may keep no checkpoints, and nobody asks it to.
            preemptible=isinstance(self._spec, JobSpec),
            max_workers=self._spec.resources.max_workers,
            wanted_workers=self._wanted,
        )


def demand_of(spec: AnyJobSpec) -> Demand:
    """What a job needs, of a range of workers for the least, as the queue counts."""
    resources, shards = spec.resources, shards_of(spec)
    return Demand(
        workers=resources.num_workers,
        cpu=max(1, units(resources.cpus_per_worker)),
        gpu=units(resources.gpus_per_worker),
        placement=resources.placement,
        shards=shards.count,
        shard_cpu=_shard_cpu(shards),
    )


def _on_others(uses: Sequence[Use], nodes: Collection[str]) -> tuple[Use, ...]:
    return tuple(use for use in uses if use.node not in nodes)


def _shard_cpu(shards: Shards) -> int:
    return units(max(shards.cpus_each, LEAST_SHARD_CPUS)) if shards.count else 0


def quota_of(quota: OwnerQuota | None) -> Quota:
    """A quota of ``queue.yaml``, as the queue counts."""
    if quota is None:
        return Quota()
    return Quota(*(None if limit is None else units(limit) for limit in (quota.gpus, quota.cpus)))
