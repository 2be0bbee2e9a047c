"""How long this rank computes in a step, and how the times of all ranks come together without an extra message."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from orchestrator.core.collectives import Collectives
from orchestrator.core.worker_times import StepTimes
from orchestrator.core.worker_watch import WorkerWatch


class Span(Protocol):
    """A stretch of time that begins when it is made."""

    def stop(self) -> None:
        """The stretch ends here."""

    def seconds(self) -> float:
        """Its length; NaN while it is not known."""


class HostSpan:
    """Time of this process. Forward and backward on a CPU are done when they return."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._seconds = math.nan

    def stop(self) -> None:
        """See ``Span``."""
        self._seconds = time.perf_counter() - self._started

    def seconds(self) -> float:
        """See ``Span``."""
        return self._seconds


class GpuSpan:
    """Time of the GPU's current stream, pauses in which it waits for this process included.

    The clock of the process would tell little: forward and backward return before the GPU has begun with them. The
    events are read when the GPU is past them, so nobody waits.
    """

    def __init__(self) -> None:
        self._start, self._end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        self._start.record()

    def stop(self) -> None:
        """See ``Span``."""
        self._end.record()

    def seconds(self) -> float:
        """See ``Span``."""
        return float(self._start.elapsed_time(self._end)) / 1000 if self._end.query() else math.nan


@dataclass(slots=True)
class _OwnWork:
    step: int
    span: Span
    num_elements: int = 0


class RankTimes:
    """Measures this rank's own computing in each step, and puts it into the message that the recorder sums anyway.

    In that message every rank has a place for its seconds and one for its elements and zeros for the others', so the
    sum holds them all. On a GPU a step's time is known only after the next step has begun, and travels with that
    one's message; the last step of an attempt has no line there.

    Args:
        collectives: the job's collectives.
        device: that this rank computes on.
        watch: on rank 0, what takes the times of all ranks; None elsewhere.
        works_alone: whether no forward or backward waits for another rank. Where one does, what it takes is the pace
            of the slowest rank on all of them, so the seconds stay unknown.
    """

    def __init__(
        self, collectives: Collectives, device: torch.device, watch: WorkerWatch | None, *, works_alone: bool
    ) -> None:
        self._collectives = collectives
        self._works_alone = works_alone or collectives.world_size == 1
        self._watch = watch
        self._new_span: type[Span] = GpuSpan if device.type == "cuda" else HostSpan
        self._delay_steps = 1 if device.type == "cuda" else 0
        self._work: deque[_OwnWork] = deque(maxlen=self._delay_steps + 1)
        self._sent_step: int | None = None

    def start(self, step: int) -> None:
        """From here the rank works on a step; ``step`` counts the optimizer steps taken, this one included."""
        self._work.append(_OwnWork(step, self._new_span()))

    def count(self, batch: Any) -> None:
        """A micro-batch is part of that work."""
        self._work[-1].num_elements += num_elements(batch)

    def stop(self) -> None:
        """Here the work ends, and the rank begins to wait for others."""
        self._work[-1].span.stop()

    def message(self, like: Tensor) -> Tensor:
        """What this rank adds to the sum over ranks: seconds and elements, [2 x world size], on the device of ``like``.

        Called once in each step, after the message of the step before has been read.
        """
        world_size, rank = self._collectives.world_size, self._collectives.rank
        message = torch.zeros(2 * world_size, dtype=torch.float64, device=like.device)
        self._sent_step = None
        if len(self._work) > self._delay_steps:
            work = self._work.popleft()
            self._sent_step = work.step
            # Filled, not copied from host memory: for a copy the process would wait for the GPU.
            message[rank].fill_(work.span.seconds() if self._works_alone else math.nan)
            message[world_size + rank].fill_(work.num_elements)
        return message

    def read(self, summed: Sequence[float]) -> None:
        """Take the sum of the last message over ranks."""
        if self._watch is not None and self._sent_step is not None:
            world_size = self._collectives.world_size
            self._watch.observe(StepTimes(self._sent_step, summed[:world_size], summed[world_size:]))

    def facts(self) -> dict[str, float]:
        """What goes into the line of metrics: ``slowest_worker_ratio``, on rank 0 of several."""
        ratio = None if self._watch is None else self._watch.slowest_worker_ratio
        return {} if ratio is None else {"slowest_worker_ratio": ratio}

    def flush(self) -> None:
        """Hand the lines that wait to the operating system."""
        if self._watch is not None:
            self._watch.flush()


def num_elements(batch: Any) -> int:
    """Elements of all tensors inside mappings, lists and tuples; nothing else counts."""
    if isinstance(batch, Tensor):
        return batch.numel()
    if isinstance(batch, Mapping):
        return sum(map(num_elements, batch.values()))
    if isinstance(batch, list | tuple):
        return sum(map(num_elements, batch))
    return 0
