"""What one rank trains with."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from orchestrator.core.protocols import (
    BatchController,
    Engine,
    LossFunction,
    MeasuringModulator,
    Modulator,
    Saver,
    TrainData,
)
from orchestrator.core.values import BatchPlan, PhaseStart
from orchestrator.optim.schedules import SampleSchedule
from orchestrator.train.averages import Averages
from orchestrator.train.branching import Branching
from orchestrator.train.rank_times import RankTimes
from orchestrator.train.recorder import Recorder


@dataclass(kw_only=True)
class Job:
    """Everything that one rank trains with; made by ``assemble``."""

    engine: Engine
    modulators: Sequence[Modulator]
    loss: LossFunction
    data: TrainData
    controller: BatchController
    averages: Averages
    schedule: SampleSchedule
    recorder: Recorder
    times: RankTimes
    branching: Branching
    evaluate: Callable[[], dict[str, float]]
    """Metrics over the evaluation data; empty where there is none."""
    saver: Saver
    seed: int
    rank: int
    total_steps: int | None
    """Steps at which to end; None where only samples count."""
    total_samples: int | None
    """Samples at which to end; None where only steps count."""
    eval_every: int | None
    save_every: int | None
    start: PhaseStart
    """Where the phase began."""
    step_samples: int
    """Samples that a step of the spec's batch counts for in the schedule."""
    num_workers: int | None = None
    """Workers that train now, told with every step; None where no attempt of the job has another number."""
    plans: deque[BatchPlan] = field(default_factory=lambda: deque(maxlen=2))
    """Of the last two steps of this attempt."""
    step: int = 0
    """Optimizer steps taken."""
    samples: int = 0
    """Samples seen by them over all ranks."""

    @cached_property
    def measuring(self) -> list[MeasuringModulator]:
        """The modulators that look at the gradients of the model's modules."""
        return [modulator for modulator in self.modulators if isinstance(modulator, MeasuringModulator)]

    @property
    def done(self) -> bool:
        """Whether the last step has been taken."""
        enough_samples = self.total_samples is not None and self.samples >= self.total_samples
        return enough_samples or (self.total_steps is not None and self.step >= self.total_steps)

    @property
    def seen(self) -> int:
        """Samples seen as the schedule counts them: where only steps count, those of the spec's batch."""
        if self.total_samples is not None:
            return self.samples
        return self.start.samples + (self.step - self.start.step) * self.step_samples

    def lr(self, num_samples: int) -> float:
        """Scheduled rate of a step of so many samples."""
        return self.schedule.lr(self.seen, self.step_samples if self.total_samples is None else num_samples)
