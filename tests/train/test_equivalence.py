"""How the batch is spread over workers and micro-batches changes nothing but the order of floating-point sums."""

import itertools
from collections.abc import Iterable
from pathlib import Path

import pytest
from support import assert_same_weights, make_run_directory, tiny_spec, train_on, weights

from orchestrator.core.run_directory import RunDirectory

STEPS = 50


RECORDING = {"target": "tiny.py:Digits", "args": {"record": True}}


def spec(workers: int, *, global_size: int = 96, micro_size: int | None = None, **sections):
    defaults = {"train": {"steps": STEPS, "clip_grad_norm": 1.0}, "recipe": RECORDING}
    return tiny_spec(
        batch={"global_size": global_size, "micro_size": micro_size},
        resources={"workers": workers},
        **{**defaults, **sections},
    )


def train(root: Path, workers: int, **arguments) -> RunDirectory:
    directory = make_run_directory(root, spec(workers, **arguments))
    train_on(workers, directory)
    return directory


def resume(root: Path, workers: int, whole: RunDirectory, step: int, **arguments) -> RunDirectory:
    """Train on from one checkpoint of another run, which loses it."""
    directory = make_run_directory(root, spec(workers, **arguments))
    directory.checkpoints.mkdir()
    (whole.checkpoints / f"step_{step}").rename(directory.checkpoints / f"step_{step}")
    train_on(workers, directory)
    return directory


def flat(lists: Iterable[list[int]]) -> list[int]:
    return list(itertools.chain.from_iterable(lists))


def samples_per_step(directory: RunDirectory, workers: int, micro_batches_per_step: int) -> list[list[int]]:
    """The ids of each step over all ranks, in the global order: rank by rank, micro-batch by micro-batch."""
    per_rank = []
    for rank in range(workers):
        lines = (directory.code / f"ids.{rank}").read_text(encoding="utf-8").splitlines()
        ids = [[int(i) for i in line.split()] for line in lines]
        starts = range(0, len(ids), micro_batches_per_step)
        per_rank.append([flat(ids[i : i + micro_batches_per_step]) for i in starts])
    return [flat(step) for step in zip(*per_rank, strict=True)]


@pytest.mark.distributed
def test_two_by_four_is_one_by_eight_is_four_by_two(tmp_path: Path) -> None:
    trained, taken = {}, {}
    for workers, micro_batches in [(2, 4), (1, 8), (4, 2)]:
        trained[workers] = train(tmp_path / str(workers), workers, micro_size=96 // workers // micro_batches)
        taken[workers] = samples_per_step(trained[workers], workers, micro_batches)
    assert taken[1] == taken[2] == taken[4]
    assert [len(step) for step in taken[1]] == [96] * STEPS
    assert_same_weights(trained[1], trained[2], atol=1e-5)
    assert_same_weights(trained[1], trained[4], atol=1e-5)


@pytest.mark.distributed
@pytest.mark.parametrize("micro_size", [None, 70])
def test_a_batch_that_does_not_divide_loses_no_sample(tmp_path: Path, micro_size: int | None) -> None:
    alone = train(tmp_path / "alone", 1, global_size=1000, micro_size=micro_size)
    three = train(tmp_path / "three", 3, global_size=1000, micro_size=micro_size)
    taken = samples_per_step(three, 3, 1 if micro_size is None else 5)  # ceil(334 / 70) = 5
    assert taken == samples_per_step(alone, 1, 1 if micro_size is None else 15)  # ceil(1000 / 70) = 15
    assert [len(step) for step in taken] == [1000] * STEPS
    # Epochs of 1,500 end inside a step; after 3 steps of 1,000 every sample was seen exactly twice.
    assert sorted(flat(taken[:3])) == sorted([*range(1500), *range(1500)])
    assert_same_weights(alone, three, atol=1e-5)


@pytest.mark.distributed
@pytest.mark.parametrize("workers", [1, 3])
def test_resuming_on_another_number_of_workers_continues_exactly(tmp_path: Path, workers: int) -> None:
    arguments = {"global_size": 100, "checkpoint": {"every": 20}}
    whole = train(tmp_path / "whole", 2, **arguments)
    resumed = resume(tmp_path / "resumed", workers, whole, 40, **arguments)
    assert samples_per_step(resumed, workers, 1) == samples_per_step(whole, 2, 1)[40:]
    assert_same_weights(whole, resumed, atol=1e-5)


@pytest.mark.distributed
def test_a_resumed_job_repeats_the_undisturbed_one_bit_for_bit_on_three_workers(tmp_path: Path) -> None:
    """Three, because there the order of a sum depends on its place in the message; with dropout and batch norm."""
    arguments = {
        "global_size": 100,
        "checkpoint": {"every": 20},
        "recipe": {"target": "tiny.py:Digits", "args": {"batch_norm": True, "dropout": 0.2}},
        "exchange": {"name": "all_reduce", "bucket_mib": 0.001},
        "optimizer": {"name": "lamb", "lr": 0.02},
    }
    whole = train(tmp_path / "whole", 3, **arguments)
    assert_same_weights(whole, resume(tmp_path / "resumed", 3, whole, 40, **arguments))


def test_the_last_step_takes_what_is_left(tmp_path: Path) -> None:
    taken = samples_per_step(train(tmp_path / "run", 1, global_size=400, train={"epochs": 1}), 1, 1)
    assert [len(step) for step in taken] == [400, 400, 400, 300]
    assert sorted(flat(taken)) == list(range(1500))


def test_the_same_spec_gives_the_same_bits_and_another_seed_does_not(tmp_path: Path) -> None:
    first = train(tmp_path / "first", 1)
    assert_same_weights(first, train(tmp_path / "second", 1))
    other = train(tmp_path / "other", 1, train={"steps": STEPS, "seed": 1})
    assert not weights(first)["0.weight"].equal(weights(other)["0.weight"])
