"""What one rank is told about the attempt it belongs to."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from orchestrator.core.collectives import Collectives
from orchestrator.core.run_directory import RunDirectory
from orchestrator.exchange.served.place import ServedPlace
from orchestrator.spec.job import WorkerRange


@dataclass(frozen=True, slots=True, kw_only=True)
class RankContext:
    """One rank of one attempt of one job."""

    run_directory: RunDirectory
    attempt: int
    """Life of the job, from 1."""
    collectives: Collectives
    device: torch.device
    nodes: tuple[str, ...]
    """The node of each rank."""
    served: ServedPlace | None = None
    """Where the ranks are shards that other processes compute for."""
    worker_range: WorkerRange | None = None
    """How many workers other attempts of the job may have; None where all have as many."""

    @property
    def worker_nodes(self) -> tuple[str, ...]:
        """The node of each worker: of the ranks themselves, or of those that compute for them."""
        return self.nodes if self.served is None else self.served.links.nodes

    def is_current(self) -> bool:
        """Whether this attempt still owns the job; a process that outlived its attempt must not write."""
        return self.run_directory.read_state().get("attempts") == self.attempt
