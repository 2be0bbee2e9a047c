"""Frozen values that cross the seams. Every field says its unit. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.core.gradient_stats import GroupNorms
from orchestrator.spec.job import JobSpec, WorkerRange


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a batch controller decided and why. Numbers that it does not have are None."""

    batch: int
    """Samples per step over all ranks from the next step on."""
    target: float | None
    """Samples per step that the policy asks for, before guards and rounding."""
    noise: float | None
    """Estimate of tr(Sigma), the variance of one sample's gradient."""
    signal: float | None
    """Estimate of |G|^2, of the true gradient."""
    noise_scale: float | None
    """Their ratio, in samples."""
    lr_factor: float
    """Multiplies the scheduled learning rate from the next step on."""
    reason: str
    """For people: the rule, or the guard that held it back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """How many workers a batch controller asks for and why."""

    workers: int
    """From the next step on; there may be fewer, and more until the job may be changed."""
    batch: int
    """Samples per step over all ranks that they are asked for."""
    noise_scale: float | None
    """Of the gradient, in samples; None where it plays no part."""
    reason: str
    """For people: the rule."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Branches:
    """Short trainings from the present weights that a batch controller wants to see; nothing of them stays."""

    batches: tuple[int, ...]
    """Samples per step over all ranks, of each branch."""
    lr_factors: tuple[float, ...]
    """Multiplies the scheduled learning rate of the moment, of each branch."""
    num_samples: int
    """Most samples of a branch, which takes whole steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What branches have shown."""

    batches: tuple[int, ...]
    """Samples per step over all ranks, of each branch."""
    losses: tuple[float, ...]
    """Average loss at the end of each."""
    critical_batch: int
    """Samples per step."""
    num_samples: int
    """Samples of all of them together."""
    num_samples_so_far: int
    """Samples of all branches of the training."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPlan:
    """What one optimizer step processes."""

    global_batch_size: int
    """Samples per step over all ranks."""
    micro_batch_size: int | None
    """Most samples per rank per backward; None takes a rank's whole share at once."""
    lr_factor: float = 1.0
    """Multiplies the scheduled learning rate (batch controllers couple the rate to the batch through it)."""
    averages_ratio: float = 1.0
    """How many times as fast per step the optimizer's averages forget: beta becomes 1 - ratio (1 - beta), eps
    eps / ratio^0.5. 1 leaves what the spec says."""
    sample_statistic: bool = False
    """Whether the engine measures the norms of the gradient's groups in this step."""
    inner_products: bool = False
    """Whether it then measures their inner products with the step's gradient too; not every engine can."""
    preconditioned: bool = False
    """Whether it then measures gradients divided by the root of Adam's second moment."""
    decision: Decision | None = None
    """What was decided just now, for the records; None where nothing was."""
    workers: int | None = None
    """Workers that the job can use well; None where nobody asks for a number. What a step computes does not depend on
    it: another attempt of the job has them."""
    wish: Wish | None = None
    """What has just changed ``workers``, for the records; None where nothing has."""
    branches: Branches | None = None
    """To be trained in place of the step, and shown to the controller, which then plans the step; None for none."""
    probe: Probe | None = None
    """What branches have just shown, for the records; None where there were none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What an engine measures in one step."""

    num_samples: int
    """Samples of the step over all ranks."""
    inner_products: bool = False
    """Whether the groups' inner products with the step's gradient are wanted."""
    for_controller: bool = True
    """Whether the batch controller has asked, and is told."""
    modules: bool = False
    """Whether the numbers are wanted of every module of the model too, see ``EngineParts.module_of``."""
    halves: bool = False
    """Whether those of the step's two halves are wanted then."""
    preconditioned: bool = False
    """Whether gradients are first divided by the root of Adam's second moment, where there is one already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepStats:
    """What a batch controller sees of the training before it plans the next step."""

    step: int
    """Optimizer steps taken."""
    samples: int
    """Samples seen by those steps over all ranks."""
    loss: float | None
    """Mean loss of the last step that was read; None before the first of an attempt, so no ground for a decision."""
    lr: float | None = None
    """Scheduled learning rate of the coming step, were it as large as the spec's batch, before any factor."""
    is_warmup: bool = False
    """Whether the coming step is of the learning rate's warmup."""
    gradient: GroupNorms | None = None
    """What the engine measured in the step before the last one, if it did: every measured step is shown once."""
    step_seconds: float | None = None
    """How long the step before the last one took on rank 0; None in the first steps of an attempt."""
    timed_plan: BatchPlan | None = None
    """The plan of that step; None where ``step_seconds`` is."""
    branch_losses: tuple[tuple[float, ...], ...] | None = None
    """Mean loss of each step of each branch that the last plan asked for; None where it asked for none."""


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
class ControllerParts:
    """What a batch controller is made of."""

    spec: JobSpec
    """The phase's job."""
    world_size: int
    """Ranks that the batch is divided among."""
    start: PhaseStart = PhaseStart()
    """Where the phase began; ``StepStats`` count from the start of the training."""
    total_samples: int | None = None
    """Length of the phase; None where it is in steps of a batch that changes."""
    peak_lr: float
    """Learning rate after the scaling rule, before warmup and schedule."""
    worker_range: WorkerRange | None = None
    """What other attempts of the job may have as ``world_size``; None where it stays."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataPosition:
    """How far the training has read the data of its phase; the same for every number of workers."""

    samples: int = 0
    """Samples taken from the global order since the start of the phase, over all epochs."""
    stream_states: tuple[Mapping[str, Any], ...] = field(default=())
    """Streaming only: the state of each rank's stream; empty for map-style data."""
    ledger: Mapping[str, Any] = field(default_factory=dict, hash=False)
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
    exit_code: int | None = None
    """Of a script that ended by itself or by a signal n, which is 128 + n; None for everything else."""
    told_by: str = ""
    """The retry class of the spec that has named the cause; empty where none has."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Start another attempt."""

    failure: Failure


@dataclass(frozen=True, slots=True)
class GiveUp:
    """End the job as failed."""

    failure: Failure
