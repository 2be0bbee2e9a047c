"""Which sample each rank sees in which micro-batch: pure arithmetic, the same samples per step for every world size.

The samples of all epochs form one global order; a position in it is a number of samples. A step takes the next samples
of the order, ranks take contiguous slices of the step, micro-batches take contiguous slices of those. Nothing here
depends on the number of ranks except the slicing, so a position is all that a checkpoint needs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestrator.spec.batch_arithmetic import num_micro_batches, share

SampleIds = NDArray[np.int64]


class GlobalOrder:
    """The order of all samples over all epochs: epoch e is a permutation that depends on the seed and e only.

    The last two permutations asked for are kept (8 bytes per sample each): a step may cross from one epoch into the
    next, and prefetching runs ahead of the step.

    Args:
        num_samples: samples of the data set, at least 1.
        seed: the job's seed.
    """

    def __init__(self, num_samples: int, seed: int) -> None:
        if num_samples < 1:
            raise ValueError(f"Invalid num_samples value: {num_samples}. Must be at least 1.")
        self._num_samples = num_samples
        self._seed = seed
        self._permutations: dict[int, SampleIds] = {}

    def take(self, position: int, count: int) -> SampleIds:
        """Ids of ``count`` samples from ``position`` on, crossing epochs where it must; shape [count]."""
        ids = np.empty(count, dtype=np.int64)
        taken = 0
        while taken < count:
            epoch, start = divmod(position + taken, self._num_samples)
            piece = self._permutation(epoch)[start : start + count - taken]
            ids[taken : taken + len(piece)] = piece
            taken += len(piece)
        return ids

    def _permutation(self, epoch: int) -> SampleIds:
        if epoch not in self._permutations:
            while len(self._permutations) > 1:
                del self._permutations[next(iter(self._permutations))]
            generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([self._seed, epoch])))
            self._permutations[epoch] = generator.permutation(self._num_samples)
        return self._permutations[epoch]


def slice_for_rank(ids: SampleIds, rank: int, world_size: int) -> SampleIds:
    """The contiguous slice of a step's ids that one rank processes; slices differ in size by at most 1."""
    start, stop = share(len(ids), rank, world_size)
    return ids[start:stop]


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatchIds:
    """The samples of one micro-batch."""

    ids: SampleIds
    """Sample ids, never empty: padding holds one real sample."""
    offset: int
    """Samples of the step before this micro-batch, over all ranks."""
    num_samples: int
    """Samples that count; 0 for padding."""


def split_micro_batches(
    step_ids: SampleIds, *, rank: int, world_size: int, micro_batch_size: int | None
) -> list[MicroBatchIds]:
    """This rank's micro-batches of a step, equally many on every rank, as even as possible.

    A rank whose slice is smaller than that number gets padding at the end: one real sample that counts for nothing.

    Args:
        step_ids: ids of the whole step over all ranks, at least one.
        rank: this rank.
        world_size: number of ranks.
        micro_batch_size: most samples per micro-batch; None takes the rank's slice at once.
    """
    rank_start, rank_stop = share(len(step_ids), rank, world_size)
    num_micro = num_micro_batches(len(step_ids), world_size, micro_batch_size)
    micro_batches = []
    for index in range(num_micro):
        start, stop = (rank_start + edge for edge in share(rank_stop - rank_start, index, num_micro))
        first = min(start, len(step_ids) - 1)
        micro_batches.append(
            MicroBatchIds(ids=step_ids[first : max(stop, first + 1)], offset=first, num_samples=stop - start)
        )
    return micro_batches
