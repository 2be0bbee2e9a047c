"""The arithmetic of the global order and of slicing a step."""

from __future__ import annotations

import numpy as np
import pytest
from data_samples import UNEVEN

from orchestrator.data.sampler import GlobalOrder, slice_for_rank, split_micro_batches
from orchestrator.spec.batch_arithmetic import num_micro_batches, share

WORLDS = (1, 2, 3, 5, 8)


def test_every_epoch_covers_every_sample_once_in_an_order_of_its_own() -> None:
    ids = GlobalOrder(10, seed=1).take(0, 30).reshape(3, 10)
    assert (np.sort(ids, axis=1) == np.arange(10)).all()
    assert len({tuple(epoch) for epoch in ids.tolist()}) == 3


def test_the_order_depends_on_seed_and_position_alone() -> None:
    whole = GlobalOrder(10, seed=1).take(0, 50)
    order = GlobalOrder(10, seed=1)
    for position, count in ((37, 9), (0, 3), (8, 25), (3, 0)):  # backwards and across three epochs
        assert order.take(position, count).tolist() == whole[position : position + count].tolist()
    assert GlobalOrder(10, seed=2).take(0, 10).tolist() != whole[:10].tolist()
    assert whole.dtype == np.int64


def test_the_order_of_a_seed_is_fixed_for_ever() -> None:
    # A checkpoint of an older version must resume on the same samples: never change these numbers.
    assert GlobalOrder(8, seed=0).take(0, 16).tolist() == [2, 4, 3, 6, 5, 0, 1, 7, 1, 3, 7, 6, 0, 4, 2, 5]


def test_an_empty_data_set_has_no_order() -> None:
    with pytest.raises(ValueError, match="num_samples value: 0"):
        GlobalOrder(0, seed=0)


@pytest.mark.parametrize("num_shares", WORLDS)
@pytest.mark.parametrize("count", [0, 1, 7, 24])
def test_shares_are_contiguous_and_even(count: int, num_shares: int) -> None:
    shares = [share(count, index, num_shares) for index in range(num_shares)]
    assert [start for start, _ in shares] + [count] == [0] + [stop for _, stop in shares]
    sizes = [stop - start for start, stop in shares]
    assert max(sizes) - min(sizes) <= 1
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("micro_batch_size", [None, 1, 2, 5, 64])
@pytest.mark.parametrize("world_size", WORLDS)
@pytest.mark.parametrize("step_size", sorted({*UNEVEN, 1, 2, 3}))
def test_micro_batches_of_all_ranks_make_the_step(
    step_size: int, world_size: int, micro_batch_size: int | None
) -> None:
    ids = np.random.default_rng(0).permutation(100)[:step_size]
    ranks = [
        split_micro_batches(ids, rank=rank, world_size=world_size, micro_batch_size=micro_batch_size)
        for rank in range(world_size)
    ]
    assert {len(micro_batches) for micro_batches in ranks} == {
        num_micro_batches(step_size, world_size, micro_batch_size)
    }
    counted = [id_ for rank in ranks for micro in rank for id_ in micro.ids[: micro.num_samples].tolist()]
    assert counted == ids.tolist()
    for rank, micro_batches in enumerate(ranks):
        sizes = [micro.num_samples for micro in micro_batches]
        assert max(sizes) - min(sizes) <= 1
        assert max(sizes) <= (micro_batch_size or step_size)
        assert sum(sizes) == len(slice_for_rank(ids, rank, world_size))
        for micro in micro_batches:
            assert len(micro.ids) == max(1, micro.num_samples)
            assert micro.ids[0] == ids[micro.offset]


def test_the_number_of_micro_batches_is_no_larger_than_needed() -> None:
    assert num_micro_batches(13, 2, 4) == 2  # slices of 7 and 6
    assert num_micro_batches(16, 2, 4) == 2
    assert num_micro_batches(17, 2, 4) == 3
    assert num_micro_batches(1000, 3, None) == 1
