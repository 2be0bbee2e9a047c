"""How a step's samples are divided among workers and micro-batches: integers only, the same rule everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class StepDivision:
    """How one step is divided among some number of workers. All sizes are samples."""

    workers: int
    smallest_slice: int
    """Least samples of a worker per step."""
    largest_slice: int
    """Most samples of a worker per step."""
    num_micro_batches: int
    """Backwards per worker and step, the same on every worker."""
    largest_micro_batch: int
    """Most samples of one backward."""


def divide_step(num_samples: int, workers: int, micro_batch_size: int | None) -> StepDivision:
    """Divide a step.

    Args:
        num_samples: Samples of the step over all workers.
        workers: Number of workers.
        micro_batch_size: Most samples per worker per backward; None takes a worker's share at once.
    """
    slices = [stop - start for start, stop in (share(num_samples, index, workers) for index in (0, workers - 1))]
    num_micro = num_micro_batches(num_samples, workers, micro_batch_size)
    return StepDivision(
        workers=workers,
        smallest_slice=slices[-1],
        largest_slice=slices[0],
        num_micro_batches=num_micro,
        largest_micro_batch=-(-slices[0] // num_micro),
    )


def share(count: int, index: int, num_shares: int) -> tuple[int, int]:
    """Start and stop of one contiguous share of ``count`` things; sizes differ by at most 1, the larger ones first."""
    base, remainder = divmod(count, num_shares)
    start = index * base + min(index, remainder)
    return start, start + base + (index < remainder)


def weighted_share(count: int, index: int, weights: Sequence[int]) -> tuple[int, int]:
    """Start and stop of one of several contiguous shares in proportion to their weights; with equal ones ``share``.

    Every share is its exact part rounded down, or one more: what is left over goes to the largest fractions, of equal
    ones to the first.
    """
    total = sum(weights)
    sizes = [count * weight // total for weight in weights]
    by_fraction = sorted(range(len(weights)), key=lambda i: (-(count * weights[i] % total), i))
    for i in by_fraction[: count - sum(sizes)]:
        sizes[i] += 1
    start = sum(sizes[:index])
    return start, start + sizes[index]


def num_micro_batches(num_samples: int, workers: int, micro_batch_size: int | None) -> int:
    """Micro-batches that every worker runs in a step: what the one with the largest slice needs."""
    largest_slice = -(-num_samples // workers)
    return 1 if micro_batch_size is None else -(-largest_slice // micro_batch_size)
