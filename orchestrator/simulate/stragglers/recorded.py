"""Traces from what a job has recorded of its workers: what is slow because of a worker, and what because of its data.

A worker's time for its part of a batch is taken for

    seconds = fixed_s + factor x work,      work = (elements / mean of all elements) ^ exponent

The factor is the worker's own in each step. The work follows the data: whoever computes that part has it. The exponent
is the slope of log seconds over log elements, each relative to the worker's median; it minimizes the sum of absolute
residuals, so bursts of slowness do not move it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestrator.core.errors import UsageError
from orchestrator.core.stragglers import SlowWorker, StragglerDetector
from orchestrator.simulate.stragglers.trace import Floats, Trace

MAX_EXPONENT = 2.0
"""Of the time over the elements: attention over long sequences."""
MAX_UNKNOWN_SHARE = 0.1
"""Largest share of times of which at most a lower bound is known."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Record:
    """The times of a job's workers, step by step."""

    steps: NDArray[np.int64]
    """[num_steps] increasing."""
    seconds: Floats
    """[num_steps, num_workers] each worker's own computing; NaN where it is not known."""
    elements: Floats
    """[num_steps, num_workers] size of what it computed; NaN where it is not known. Where it is known of others of the
    same step, the worker left the step before it was done, and its seconds are a lower bound."""
    load: float
    """Share of a batch that each worker computed."""
    in_order: bool
    """Whether worker i computed the i-th of as many equal parts of each batch, so that work can be told to be the
    data's."""

    @property
    def num_workers(self) -> int:
        """Workers of the job."""
        return int(self.seconds.shape[1])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Estimate:
    """A trace and what it was made from."""

    trace: Trace
    exponent: float | None
    """See above; None where elements never differ or are not known."""
    num_unknown: int
    """Times that were not known, or of which only a lower bound is. They are taken for as long as the slowest worker
    of the step took, at least."""

    @property
    def uneven_work(self) -> float | None:
        """Mean over the steps of the work in the largest part of a batch, relative to the mean part.

        None where parts are equal or not told apart.
        """
        work = self.trace.batch_work
        return None if work is None else float((work.max(axis=1) / work.mean(axis=1)).mean())


def estimate(record: Record, *, fixed_s: float = 0.0) -> Estimate:
    """The trace behind a record.

    Args:
        record: Of any number of steps.
        fixed_s: Seconds of each worker's step that do not grow with its share.

    Raises:
        UsageError: where too many times are unknown, or some are not more than ``fixed_s``.
    """
    complete = np.isfinite(record.seconds) & (
        np.isfinite(record.elements) | ~np.isfinite(record.elements).any(axis=1, keepdims=True)
    )
    is_told = complete.any(axis=1)
    complete, steps = complete[is_told], record.steps[is_told]
    num_unknown = int(np.count_nonzero(~complete))
    if not is_told.any() or num_unknown > MAX_UNKNOWN_SHARE * complete.size:
        raise UsageError(
            f"Of {num_unknown:,} of {complete.size:,} times at most a lower bound is known, as a step need not wait "
            "for its slow workers; record a job whose exchange waits for all, such as all_reduce."
        )
    seconds = _filled(record.seconds[is_told], complete)
    computing_s = seconds - fixed_s
    if computing_s.min() <= 0:
        row, worker = np.unravel_index(computing_s.argmin(), computing_s.shape)
        raise UsageError(
            f"fixed_s: {fixed_s:g} s is not less than the {seconds[row, worker]:.4g} s that worker {worker} took in "
            f"step {steps[row]}."
        )
    elements = np.where(complete & (record.elements[is_told] > 0), record.elements[is_told], np.nan)
    exponent = elements_exponent(computing_s, elements)
    work = np.ones_like(seconds)
    if exponent is not None:
        relative = elements / np.nanmean(elements)
        work = np.where(np.isfinite(relative), relative, 1.0) ** exponent
    trace = Trace(
        fixed_s=np.full_like(seconds, fixed_s),
        per_batch_s=computing_s / (record.load * work),
        batch_work=work if exponent is not None and record.in_order else None,
    )
    return Estimate(trace=trace, exponent=exponent, num_unknown=num_unknown)


def elements_exponent(computing_s: Floats, elements: Floats) -> float | None:
    """The exponent in 0 to ``MAX_EXPONENT`` with which times grow with elements; None where elements never differ.

    It is 1 where no worker's elements differ between steps, as what is the worker's and what the data's cannot be
    told apart then.

    Args:
        computing_s: ``[num_steps, num_workers]`` positive.
        elements: ``[num_steps, num_workers]`` positive, NaN where they are not known.
    """
    is_known = np.isfinite(elements)
    if not is_known.any() or np.nanmin(elements) == np.nanmax(elements):
        return None
    slopes, weights = [], []
    for worker in np.flatnonzero(is_known.any(axis=0)):
        known = is_known[:, worker]
        size, time = np.log(elements[known, worker]), np.log(computing_s[known, worker])
        size, time = size - np.median(size), time - np.median(time)
        differs = size != 0
        slopes.append(time[differs] / size[differs])
        weights.append(np.abs(size[differs]))
    slope = _weighted_median(np.concatenate(slopes), np.concatenate(weights))
    return 1.0 if slope is None else min(max(slope, 0.0), MAX_EXPONENT)


def slow_workers(record: Record) -> list[SlowWorker]:
    """Workers that had been slow for long when the record ended, and still were."""
    detector = StragglerDetector(record.num_workers)
    for step, seconds, elements in zip(record.steps, record.seconds, record.elements, strict=True):
        detector.update(int(step), seconds.tolist(), elements.tolist())
    return sorted(detector.slow, key=lambda slow: -slow.ratio)


def with_ordinary(trace: Trace, workers: list[int]) -> Trace:
    """The trace as it would be if these workers computed as fast as the median worker of each round."""
    per_batch_s = trace.per_batch_s.copy()
    per_batch_s[:, workers] = np.median(np.delete(per_batch_s, workers, axis=1), axis=1, keepdims=True)
    return Trace(fixed_s=trace.fixed_s, per_batch_s=per_batch_s, batch_work=trace.batch_work)


def _filled(seconds: Floats, complete: NDArray[np.bool_]) -> Floats:
    """Seconds with what is not known raised to those of the slowest worker of the step that is."""
    slowest = np.where(complete, seconds, 0.0).max(axis=1, keepdims=True)
    return np.where(complete, seconds, np.fmax(seconds, slowest))


def _weighted_median(values: Floats, weights: Floats) -> float | None:
    if not len(values):
        return None
    order = np.argsort(values)
    half = np.searchsorted(np.cumsum(weights[order]), weights.sum() / 2)
    return float(values[order][min(half, len(values) - 1)])
