"""From a step's tensors to one line of metrics, read a step late so that a GPU is never waited for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache

import torch
import torch.distributed as dist
from torch import Tensor

from orchestrator.core.collectives import Collectives
from orchestrator.core.errors import DivergedError
from orchestrator.core.host_copies import on_host
from orchestrator.core.protocols import Tracker
from orchestrator.core.values import BatchPlan, Decision, Probe, Wish
from orchestrator.train.rank_times import RankTimes

MAX_NON_FINITE_STEPS = 25
"""fp16 only: steps in a row whose loss may be inf or nan while the loss scale adapts."""


class _Message:
    """A step's numbers, summed over ranks, on their way to host memory while the next step computes."""

    def __init__(self, vector: Tensor, work: dist.Work | None) -> None:
        self._work, self._vector = work, vector
        self._arrived: torch.cuda.Event | None = None
        if vector.is_cuda:
            # On a stream of its own: on the step's, the copy that is read a step late would follow the next step.
            stream = _copies(vector.device)
            stream.wait_stream(torch.cuda.current_stream(vector.device))
            with torch.cuda.stream(stream):
                if work is not None:
                    work.wait()
                self._vector = on_host(vector)
                self._arrived = torch.cuda.Event()
                self._arrived.record()
            vector.record_stream(stream)

    def read(self) -> list[float]:
        """Wait for this step, and not for the one that computes now."""
        if self._arrived is not None:
            self._arrived.synchronize()
        elif self._work is not None:
            self._work.wait()
        numbers: list[float] = self._vector.tolist()
        return numbers


@cache
def _copies(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


@dataclass(slots=True)
class _Pending:
    step: int
    names: list[str]
    message: _Message
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
        self.read()
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
        at_hand = {name: on_host(value) if isinstance(value, Tensor) else value for name, value in facts.items()}
        self._pending = _Pending(step, list(weighted), _Message(vector, work), at_hand)

    def add(self, metrics: Mapping[str, float]) -> None:
        """Join metrics to the line of the step just recorded."""
        if self._pending is not None:
            self._pending.extra.update(metrics)

    def add_reasons(self, plan: BatchPlan, lr: float, num_workers: int | None) -> None:
        """Record what the plan of the step just recorded was made by.

        Args:
            plan: of the step.
            lr: the rate that it took.
            num_workers: that there are, where that may change.
        """
        if plan.decision is not None:
            self._add_decision(plan.decision, lr)
        if plan.probe is not None:
            self._add_probe(plan.probe)
        if plan.wish is not None:
            self._add_wish(plan.wish, num_workers)

    def _add_decision(self, decision: Decision, lr: float) -> None:
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

    def _add_wish(self, wish: Wish, num_workers: int | None) -> None:
        """The driver hears of it by the step's line, so there is one."""
        assert self._pending is not None  # recorded just before
        numbers = {"wanted": wish.workers, "workers": num_workers, "batch": wish.batch}
        is_known = wish.noise_scale is not None and math.isfinite(wish.noise_scale)
        noise_scale = wish.noise_scale if is_known else None
        fields = {"step": self._pending.step, **numbers, "noise_scale": noise_scale, "reason": wish.reason}
        self._tracker.event("workers_wanted", fields)
        self.add({"workers_wanted": float(wish.workers)})

    def _add_probe(self, probe: Probe) -> None:
        assert self._pending is not None  # recorded just before
        fields = asdict(probe)
        fields["losses"] = [loss if math.isfinite(loss) else None for loss in probe.losses]
        self._tracker.event("branches", {"step": self._pending.step, **fields})
        numbers = {"critical_batch": probe.critical_batch, "samples": probe.num_samples_so_far}
        self.add({f"branches/{name}": float(number) for name, number in numbers.items()})

    def step_seconds(self, step: int) -> float | None:
        """How long one of the last two steps took on rank 0, equal on all ranks; None where it was not read."""
        return self._step_seconds.get(step)

    def flush(self, *, always: bool = False) -> None:
        """Read the step that is waiting; ``always`` logs it even between two lines.

        Raises:
            RecipeError: where the loss is not finite.
        """
        self.read(always=always)
        if self._times is not None:
            self._times.flush()

    def read(self, *, always: bool = False) -> None:
        """Wait for the step that was recorded last, and log it where it is due."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        stop, seconds, *values = pending.message.read()
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
            raise DivergedError(
                f"The loss is {loss} at step {step}: training cannot go on. A lower learning rate, a longer "
                "warmup or train.clip_grad_norm usually helps."
            )
