"""From a step's tensors to one line of metrics, read a step late so that a GPU is never waited for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

from orchestrator.core.collectives import Collectives
from orchestrator.core.errors import RecipeError
from orchestrator.core.protocols import Tracker
from orchestrator.core.values import Decision
from orchestrator.train.rank_times import RankTimes

MAX_NON_FINITE_STEPS = 25
"""fp16 only: steps in a row whose loss may be inf or nan while the loss scale adapts."""


@dataclass(slots=True)
class _Pending:
    step: int
    names: list[str]
    vector: Tensor
    work: dist.Work | None
    facts: dict[str, Tensor | float]
    extra: dict[str, float] = field(default_factory=dict)


class Recorder:
    """Reduces each step's weighted metrics over ranks in one message and hands them to the tracker.

    The same message tells all ranks whether somebody asked for a stop, so they stop at one step, and rank 0 how long
    each rank computed.

    Args:
        tracker: of rank 0; other ranks have one that forgets.
        collectives: the job's collectives.
        log_every: steps between two lines.
        stop_requested: asked on rank 0 at each step.
        tolerate_overflow: whether a non-finite loss may pass for some steps (fp16).
        times: of this rank; None where the ranks that record are not those that compute.
    """

    def __init__(
        self,
        tracker: Tracker,
        collectives: Collectives,
        *,
        log_every: int,
        stop_requested: Callable[[], bool],
        tolerate_overflow: bool,
        times: RankTimes | None = None,
    ) -> None:
        self._tracker = tracker
        self._times = times
        self._collectives = collectives
        self._log_every = log_every
        self._stop_requested = stop_requested
        self._max_non_finite = MAX_NON_FINITE_STEPS if tolerate_overflow else 0
        self._num_non_finite = 0
        self._pending: _Pending | None = None
        self.last_loss: float | None = None
        """Mean loss of the last step that was read."""
        self._step_seconds: dict[int, float] = {}
        self.stopping = False
        """Whether a stop was asked for, equal on all ranks."""

    def record(self, step: int, weighted: Mapping[str, Tensor], facts: Mapping[str, Tensor | float]) -> None:
        """Take the metrics of one step; those of the step before are read and logged.

        Args:
            step: optimizer steps taken, this one included.
            weighted: scalars that add up to means over ranks; the same names on every rank.
            facts: scalars that are equal on all ranks, logged as they are; ``step_s`` differs, and rank 0's counts.
        """
        self._read()
        # Of these the sum over ranks is rank 0's.
        is_first = self._collectives.rank == 0
        stop = float(is_first and self._stop_requested())
        seconds = float(facts.get("step_s", math.nan)) if is_first else 0.0
        scalars = [value.double() for value in weighted.values()]
        vector = torch.stack([*(torch.full_like(scalars[0], value) for value in (stop, seconds)), *scalars])
        if self._times is not None:
            vector = torch.cat([vector, self._times.message(like=vector)])
        # Not waited for: the message travels while the next step computes.
        work = self._collectives.sum_(vector, wait=False)
        self._pending = _Pending(step, list(weighted), vector, work, dict(facts))

    def add(self, metrics: Mapping[str, float]) -> None:
        """Join metrics to the line of the step just recorded."""
        if self._pending is not None:
            self._pending.extra.update(metrics)

    def add_decision(self, decision: Decision, lr: float) -> None:
        """Record what the batch of the step just recorded was decided by; ``lr`` is the rate that it took."""
        assert self._pending is not None  # recorded just before
        numbers = {
            name: value if value is not None and math.isfinite(value) else None
            for name, value in asdict(decision).items()
            if name != "reason"
        }
        fields = {"step": self._pending.step, **numbers, "lr": lr, "reason": decision.reason}
        self._tracker.event("batch", fields)
        named = {name: numbers[name] for name in ("target", "noise", "signal", "noise_scale")}
        self.add({f"batch/{name}": float(value) for name, value in named.items() if value is not None})

    def step_seconds(self, step: int) -> float | None:
        """How long one of the last two steps took on rank 0, equal on all ranks; None where it was not read."""
        return self._step_seconds.get(step)

    def flush(self, *, always: bool = False) -> None:
        """Read the step that is waiting; ``always`` logs it even between two lines.

        Raises:
            RecipeError: where the loss is not finite.
        """
        self._read(always=always)
        if self._times is not None:
            self._times.flush()

    def _read(self, *, always: bool = False) -> None:
        pending, self._pending = self._pending, None
        if pending is None:
            return
        if pending.work is not None:
            pending.work.wait()
        stop, seconds, *values = pending.vector.tolist()
        self._step_seconds = {step: s for step, s in self._step_seconds.items() if step == pending.step - 1}
        if math.isfinite(seconds):
            self._step_seconds[pending.step] = seconds
        self.stopping = self.stopping or stop > 0
        num_metrics = len(pending.names)
        metrics = dict(zip(pending.names, values[:num_metrics], strict=True))
        if self._times is not None:
            self._times.read(values[num_metrics:])
        self.last_loss = metrics["loss"]
        if always or pending.extra or pending.step % self._log_every == 0:
            facts = {
                name: value.item() if isinstance(value, Tensor) else value for name, value in pending.facts.items()
            }
            ratio = {} if self._times is None else self._times.facts()
            self._tracker.log(pending.step, {**metrics, **facts, **ratio, **pending.extra})
        self._guard(pending.step, metrics["loss"])

    def _guard(self, step: int, loss: float) -> None:
        self._num_non_finite = 0 if math.isfinite(loss) else self._num_non_finite + 1
        if self._num_non_finite > self._max_non_finite:
            raise RecipeError(
                f"The loss is {loss} at step {step}: training cannot go on. A lower learning rate, a longer "
                "warmup or train.clip_grad_norm usually helps."
            )
