"""Training data of a map-style data set, read in the rank's own process, and evaluation data."""

from __future__ import annotations

import random
from collections import OrderedDict, namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_samples import CPU, UNEVEN, BrokenNumbers, NoisyNumbers, Numbers, ids_and_weights, map_style, plan

from orchestrator.core.errors import DataError, RecipeError
from orchestrator.core.values import DataPosition
from orchestrator.data.loader import MapStyleData, evaluation_micro_batches
from orchestrator.data.micro_batch import to_device
from orchestrator.data.sampler import GlobalOrder

WORLDS = (1, 2, 3, 5, 8)


def world_step(ranks: list[MapStyleData], size: int) -> tuple[list[int], list[list[tuple[list[int], float]]]]:
    """The counted samples of a step in order, and every rank's micro-batches."""
    served = []
    for data in ranks:
        num_samples, micro_batches = data.step(plan(size))
        loaded = list(micro_batches)
        assert num_samples <= size
        assert [micro.is_last for micro in loaded] == [False] * (len(loaded) - 1) + [True]
        served.append(ids_and_weights(loaded))
    counted = [id_ for rank in served for ids, weight in rank if weight for id_ in ids]
    assert len(counted) == num_samples
    return counted, served


@pytest.mark.parametrize("world_size", WORLDS)
def test_every_world_serves_the_global_order_with_weights_that_sum_to_one(world_size: int) -> None:
    order = GlobalOrder(30, seed=5)
    ranks = [map_style(Numbers(30), rank=rank, world_size=world_size) for rank in range(world_size)]
    position = 0
    for size in UNEVEN:  # 79 samples: crosses two epochs
        counted, served = world_step(ranks, size)
        assert counted == order.take(position, size).tolist()
        assert sum(weight for rank in served for _, weight in rank) == pytest.approx(1.0, abs=1e-12)
        assert len({len(rank) for rank in served}) == 1
        position += size
        assert {data.position for data in ranks} == {DataPosition(samples=position)}


@pytest.mark.parametrize("before", WORLDS)
@pytest.mark.parametrize("after", WORLDS)
def test_another_world_goes_on_with_the_same_samples(before: int, after: int) -> None:
    old = [map_style(Numbers(30), rank=rank, world_size=before) for rank in range(before)]
    for size in UNEVEN[:2]:
        world_step(old, size)
    samples = old[0].position.samples
    new = [map_style(Numbers(30), rank=rank, world_size=after, samples=samples) for rank in range(after)]
    for size in UNEVEN[2:]:
        assert world_step(new, size)[0] == world_step(old, size)[0]


def test_the_last_step_takes_what_is_left_and_then_there_is_none() -> None:
    data = map_style(Numbers(10), total_samples=25)
    sizes = []
    while data.position.samples < 25:
        num_samples, micro_batches = data.step(plan(8))
        assert sum(micro.weight for micro in micro_batches) == pytest.approx(1.0)
        sizes.append(num_samples)
    assert sizes == [8, 8, 8, 1]
    with pytest.raises(ValueError, match="All 25 samples"):
        data.step(plan(8))


def test_a_rank_without_samples_pads_with_a_real_one() -> None:
    num_samples, micro_batches = map_style(Numbers(10), rank=3, world_size=4, total_samples=2).step(plan(8))
    (micro,) = micro_batches
    assert num_samples == 2
    assert micro.weight == 0.0
    assert 0 <= int(micro.batch) < 10


def test_an_abandoned_step_is_served_again() -> None:
    data = map_style(Numbers(30))
    first = next(data.step(plan(13))[1])
    assert data.position.samples == 0
    again = list(data.step(plan(13))[1])
    assert torch.equal(again[0].batch, first.batch)
    assert data.position.samples == 13


def test_random_data_code_repeats_itself_and_leaves_the_training_alone() -> None:
    def states() -> list[Any]:
        return [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]

    def columns(data: MapStyleData) -> list[list[float]]:
        return [[column.tolist() for column in micro.batch] for micro in data.step(plan(13))[1]]

    before = states()
    first = columns(map_style(NoisyNumbers(30)))
    assert states() == before
    random.seed(99)
    torch.manual_seed(99)
    np.random.seed(99)
    assert columns(map_style(NoisyNumbers(30))) == first
    drawn = [value for micro in first for column in micro[1:] for value in column]
    assert len(set(drawn)) == len(drawn)  # no two micro-batches share their random numbers
    assert columns(map_style(NoisyNumbers(30), seed=6)) != first
    # A resumed training draws what the undisturbed one drew.
    data = map_style(NoisyNumbers(30))
    list(data.step(plan(13))[1])
    assert columns(map_style(NoisyNumbers(30), samples=13)) == columns(data)


def test_batched_fetch_and_collate_are_used() -> None:
    class Batched(Numbers):
        def __getitems__(self, ids: list[int]) -> list[int]:
            assert all(type(index) is int for index in ids)
            return [-index for index in ids]

    data = map_style(Batched(10), collate=lambda samples: {"sum": torch.tensor(sum(samples))})
    (micro,) = data.step(plan(10, None))[1]
    assert micro.batch == {"sum": torch.tensor(-45)}


def test_errors_of_the_data_set_name_the_users_line() -> None:
    data = map_style(BrokenNumbers(10), code_folder=Path(__file__).parent)
    with pytest.raises(RecipeError, match=r"BrokenNumbers.__getitem__ raised KeyError at data_samples.py:\d+") as error:
        list(data.step(plan(10))[1])
    assert isinstance(error.value.__cause__, KeyError)


def test_errors_of_collate_name_the_users_line() -> None:
    def collate(samples: list[int]) -> torch.Tensor:
        return torch.stack(samples)  # type: ignore[arg-type]

    data = map_style(Numbers(10), collate=collate, code_folder=Path(__file__).parent)
    with pytest.raises(RecipeError, match=r"collate raised TypeError at test_loader.py:\d+ \(return torch.stack"):
        list(data.step(plan(10))[1])


def test_samples_that_torch_cannot_batch_are_explained() -> None:
    data = map_style([object()] * 4)
    with pytest.raises(RecipeError, match="the recipe has no collate"):
        list(data.step(plan(4))[1])


def test_the_position_of_a_stream_is_refused() -> None:
    with pytest.raises(DataError, match="streaming: true"):
        MapStyleData(
            Numbers(3),
            collate=None,
            seed=0,
            rank=0,
            world_size=1,
            total_samples=3,
            position=DataPosition(samples=1, stream_states=({},)),
            device=CPU,
        )


def test_tensors_move_and_everything_else_keeps_its_shape() -> None:
    point = namedtuple("point", "x name")
    batch = {"a": [torch.ones(2), "text"], "b": (torch.ones(1), 3), "c": point(torch.ones(1), "n"), "d": OrderedDict()}
    batch["d"] = OrderedDict(t=torch.ones(3))
    moved = to_device(batch, torch.device("meta"))
    assert moved["a"][0].is_meta
    assert moved["a"][1] == "text"
    assert moved["b"][0].is_meta
    assert moved["b"][1] == 3
    assert isinstance(moved["c"], point)
    assert moved["c"].x.is_meta
    assert isinstance(moved["d"], OrderedDict)
    assert moved["d"]["t"].is_meta
    assert not batch["a"][0].is_meta


@pytest.mark.parametrize("world_size", WORLDS)
def test_evaluation_sees_each_sample_once(world_size: int) -> None:
    seen, counts = [], set()
    for rank in range(world_size):
        batches = list(
            evaluation_micro_batches(Numbers(7), None, rank=rank, world_size=world_size, micro_batch_size=2, device=CPU)
        )
        counts.add(len(batches))
        for batch, num_samples in batches:
            assert num_samples <= 2
            assert len(batch) == max(1, num_samples)  # padding holds a real sample, so that every rank computes
            seen += batch.tolist()[:num_samples]
    assert seen == list(range(7))
    assert len(counts) == 1


def test_evaluations_draw_the_same_random_numbers() -> None:
    def evaluate() -> list[Any]:
        batches = evaluation_micro_batches(
            NoisyNumbers(5), None, rank=0, world_size=1, micro_batch_size=2, device=CPU, seed=3
        )
        return [[column.tolist() for column in batch] for batch, _ in batches]

    assert evaluate() == evaluate()
