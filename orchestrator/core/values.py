"""Frozen values that cross the seams. Every field says its unit. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPlan:
    """What one optimizer step processes."""

    global_batch_size: int
    """Samples per step over all ranks."""
    micro_batch_size: int | None
    """Most samples per rank per backward; None takes a rank's whole share at once."""
    lr_factor: float = 1.0
    """Multiplies the scheduled learning rate (batch controllers couple the rate to the batch through it)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepStats:
    """What a batch controller sees of the training before it plans the next step."""

    step: int
    """Optimizer steps taken."""
    samples: int
    """Samples seen by those steps over all ranks."""
    loss: float | None
    """Mean loss of the last logged step; None before the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseStart:
    """Where one phase of the training began."""

    index: int = 0
    """Of the phase, from 0."""
    step: int = 0
    """Optimizer steps taken before it."""
    samples: int = 0
    """Samples seen by those steps over all ranks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataPosition:
    """How far the training has read the data of its phase; the same for every number of workers."""

    samples: int = 0
    """Samples taken from the global order since the start of the phase, over all epochs."""
    stream_states: tuple[Mapping[str, Any], ...] = field(default=())
    """Streaming only: the state of each rank's stream; empty for map-style data."""
    ledger: Mapping[str, Any] = field(default_factory=dict)
    """Asynchronous only: which pieces of the phase's samples have been accepted, where not just the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeReport:
    """What one exchange of gradients cost."""

    bytes_sent: int
    """Payload that one rank handed to the collective, or that all workers pushed to the shards, in bytes."""
    workers_used: int
    """Workers whose gradients are in the update."""
    facts: Mapping[str, float] = field(default_factory=dict)
    """What else the method measures, by the names of its metrics."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why an attempt ended."""

    cause: str
    """One of worker_lost, worker_crash, user_error, diverged, infrastructure."""
    message: str
    """One sentence for a person."""
    rank: int | None = None
    """The rank that failed first, where known."""
    details: str = ""
    """The whole traceback, for the log file."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Start another attempt."""

    failure: Failure


@dataclass(frozen=True, slots=True)
class GiveUp:
    """End the job as failed."""

    failure: Failure
