"""How a job comes by the nodes that its workers run on: alone on a private cluster, or through the shared queue."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from orchestrator.core.errors import UsageError
from orchestrator.core.run_directory import RunDirectory
from orchestrator.schedule.cluster import LEAST_SHARD_CPUS, Shards, Waits, admit, free_resources, shards_of
from orchestrator.schedule.queue.seat import Seat
from orchestrator.schedule.queue.values import Demand, Quota, Request, Use, amount_text, units
from orchestrator.spec.job import AnyJobSpec, JobSpec
from orchestrator.spec.problems import SpecError
from orchestrator.spec.quotas import OwnerQuota, read_quotas


class Place(Protocol):
    """What the driver asks for a place, and tells about it. Never waits itself."""

    phase: str
    """Of a job that waits for a place."""

    def begin(self) -> None:
        """Before an attempt: a place that is still good is kept, else another one is asked for."""

    def waits_for(self) -> str | None:
        """Why there is no place yet; None with a place."""

    @property
    def uses(self) -> Sequence[Use] | None:
        """The nodes of the place, in their order; None leaves them to Ray."""

    @property
    def state(self) -> Mapping[str, Any]:
        """What ``state.json`` and the events say about the place or the wait for it."""

    def is_needed_by(self) -> str | None:
        """The more urgent job that needs the place; None where nobody does."""

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

    def begin(self) -> None:
        """There is nothing to ask for."""

    def waits_for(self) -> str | None:
        """See ``Place``."""
        answer = admit(self._resources, free_resources(), self._shards)
        return answer.reason if isinstance(answer, Waits) else None

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
        self._quota: Quota | None = None
        self._has_begun = False
        self._seat = Seat(self._request)

    def begin(self) -> None:
        """See ``Place``."""
        answer = self._seat.answer if self._has_begun else None
        if answer is None or answer.uses is None or answer.has_lost_nodes or answer.makes_room_for is not None:
            self._seat.wait_again()
        self._has_begun = True

    def waits_for(self) -> str | None:
        """See ``Place``."""
        answer = self._seat.answer
        if answer is None:
            return "the cluster's queue has not answered yet"
        return None if answer.uses is not None else answer.reason

    @property
    def uses(self) -> Sequence[Use] | None:
        """See ``Place``."""
        answer = self._seat.answer
        return None if answer is None else answer.uses

    @property
    def state(self) -> Mapping[str, Any]:
        """See ``Place``."""
        demand, answer = demand_of(self._spec), self._seat.answer
        fields: dict[str, Any] = {
            "priority": self._spec.queue.priority,
            "owner": self._spec.queue.owner,
            "workers": demand.workers,
            "gpus": float(amount_text(demand.total_gpu)),
            "cpus": float(amount_text(demand.total_cpu)),
        }
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
        )


def demand_of(spec: AnyJobSpec) -> Demand:
    """What a job needs, as the queue counts."""
    resources, shards = spec.resources, shards_of(spec)
    return Demand(
        workers=resources.workers,
        cpu=max(1, units(resources.cpus_per_worker)),
        gpu=units(resources.gpus_per_worker),
        placement=resources.placement,
        shards=shards.count,
        shard_cpu=_shard_cpu(shards),
    )


def _shard_cpu(shards: Shards) -> int:
    return units(max(shards.cpus_each, LEAST_SHARD_CPUS)) if shards.count else 0


def quota_of(quota: OwnerQuota | None) -> Quota:
    """A quota of ``queue.yaml``, as the queue counts."""
    if quota is None:
        return Quota()
    return Quota(*(None if limit is None else units(limit) for limit in (quota.gpus, quota.cpus)))
