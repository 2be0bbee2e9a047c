"""Training data that are read some steps ahead, so that something can be made of them beside the steps before."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from orchestrator.core.protocols import MicroBatch, TrainData
from orchestrator.core.values import BatchPlan, DataPosition

Make = Callable[[Sequence[Any], int], list[Any]]
"""(batches of a coming step, version of the weights) -> what the loss is given in their place. A version is the number
of steps that were taken before."""


@dataclass(slots=True)
class _Step:
    num_samples: int
    micro_batches: list[MicroBatch]
    end: DataPosition
    """Where the step after it starts."""
    version: int
    """Of the weights that it is made with."""
    made: Future[list[Any]] = field(default_factory=Future)


class LookAhead:
    """Reads ``distance`` steps ahead of the step that is served. Satisfies ``core.protocols.TrainData``.

    The batches of step t + distance are given to ``make`` with the weights of version t when step t is asked for, and
    its result is waited for when the step after is. The first steps of a phase have no weights that are as old: theirs
    are those of its start. After a resume the steps that were read ahead are made anew, with the versions that they
    were made with before.

    Args:
        data: in its order; not read by anyone else.
        make: called for one step after the other, each in full.
        distance: in steps, at least 1.
        first_step: steps taken when the phase began.
        step: steps taken now.
        total_samples: length of the phase.
        concurrent: whether ``make`` runs in a thread beside the step; its first calls, at ``step``, never do.
        keep: called before a step with its version: that of the weights now, which ``make`` may ask for until
            ``distance`` steps later. A version is kept twice where a phase begins.
    """

    def __init__(
        self,
        data: TrainData,
        make: Make,
        *,
        distance: int,
        first_step: int,
        step: int,
        total_samples: int,
        concurrent: bool,
        keep: Callable[[int], None],
    ) -> None:
        self._data = data
        self._make = make
        self._distance = distance
        self._first_step = first_step
        self._step = step
        self._total_samples = total_samples
        self._keep = keep
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="look-ahead") if concurrent else None
        self._steps: deque[_Step] = deque()
        self._position = data.position
        self._is_primed = False
        self.staleness = 0
        """Steps between the weights that the step being served was made with and its own."""

    @property
    def position(self) -> DataPosition:
        """Where the next step that is served starts, however far has been read."""
        return self._position

    def step(self, plan: BatchPlan) -> tuple[int, Iterator[MicroBatch]]:
        """See ``core.protocols.TrainData``; every plan is like the first.

        Raises:
            ValueError: where all samples of the training have been taken.
            RecipeError: where user code fails, that of a coming step included.
        """
        if not self._is_primed:
            if self._step == self._first_step:
                self._keep(self._step)
            for ahead in range(self._distance):
                self._read(plan, version=max(self._step + ahead - self._distance, self._first_step), beside=False)
            self._is_primed = True
        if self._steps:
            self._steps[-1].made.result()
        self._keep(self._step)
        self._read(plan, version=self._step, beside=True)
        if not self._steps:
            raise ValueError(f"All {self._total_samples} samples of the training have been taken.")
        served = self._steps.popleft()
        self.staleness = self._step - served.version
        return served.num_samples, self._serve(served)

    def close(self) -> None:
        """End the thread when it is done with its step, and what works ahead of it."""
        if self._thread is not None:
            self._thread.shutdown()
        self._data.close()

    def _read(self, plan: BatchPlan, version: int, *, beside: bool) -> None:
        """Read the next step that has not been read, if there is one, and begin to make something of it."""
        if self._data.position.samples >= self._total_samples:
            return
        num_samples, micro_batches = self._data.step(plan)
        step = _Step(num_samples, list(micro_batches), self._data.position, version)
        self._steps.append(step)
        batches = [micro.batch for micro in step.micro_batches]
        if beside and self._thread is not None:
            step.made = self._thread.submit(self._make, batches, version)
        else:
            step.made.set_result(self._make(batches, version))

    def _serve(self, step: _Step) -> Iterator[MicroBatch]:
        for micro, batch in zip(step.micro_batches, step.made.result(), strict=True):
            micro.batch = batch
            yield micro
        self._step += 1
        self._position = step.end
