"""Streams: every sample of every epoch once, exact resumption, and refusals; one rank here, gloo ranks below."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from data_samples import CPU, plan
from gloo import run_on_ranks

from orchestrator.core.collectives import Collectives
from orchestrator.core.errors import DataError, RecipeError
from orchestrator.core.values import DataPosition
from orchestrator.data.loader import evaluation_micro_batches
from orchestrator.data.stream import StreamData, is_stream, stream_length_error

SHARDS = (5, 11, 3, 8)
"""Samples of each shard file: ranks run out at different times."""
LENGTH = sum(SHARDS)


def write_shards(folder: Path, sizes: tuple[int, ...] = SHARDS) -> None:
    first = 0
    for index, size in enumerate(sizes):
        lines = [json.dumps({"id": first + i, "x": [float(first + i)] * 2}) for i in range(size)]
        (folder / f"shard_{index}.jsonl").write_text("\n".join(lines))
        first += size


def load(folder: str | Path, kind: str = "json") -> Any:
    pattern = {"json": "*.jsonl", "parquet": "*.parquet"}[kind]
    files = sorted(str(path) for path in Path(folder).glob(pattern))
    stream = datasets.load_dataset(kind, data_files={"train": files}, split="train", streaming=True)
    return stream.with_format("torch")


def open_stream(folder: str | Path, position: DataPosition | None = None, **options: Any) -> StreamData:
    settings = {"collate": None, "seed": 3, "total_samples": 2 * LENGTH, "block_size": 4, **options}
    kind = settings.pop("kind", "json")
    return StreamData(
        load(folder, kind), collectives=Collectives(), position=position or DataPosition(), device=CPU, **settings
    )


def as_json(position: DataPosition) -> DataPosition:
    """The position after its way through a checkpoint."""
    states = json.loads(json.dumps(position.stream_states))
    return DataPosition(samples=position.samples, stream_states=tuple(states))


def take_step(data: StreamData, size: int = 6) -> tuple[int, list[tuple[list[int], float]]]:
    num_samples, micro_batches = data.step(plan(size, 2))
    return num_samples, [(micro.batch["id"].tolist(), micro.weight) for micro in micro_batches]


def run_through(folder: str, options: dict[str, Any]) -> dict[str, Any]:
    """One rank's steps of two epochs, and what it does when resumed at each of their boundaries."""
    options = dict(options)
    size = options.pop("size", 6)
    data = open_stream(folder, **options)
    steps, positions = [], [data.position]
    while data.position.samples < 2 * LENGTH:
        steps.append(take_step(data, size))
        positions.append(as_json(data.position))
    resumed = [take_step(open_stream(folder, position, **options), size) for position in positions[:-1]]
    return {"steps": steps, "resumed": resumed, "samples": [position.samples for position in positions]}


def check_two_epochs(ranks: list[dict[str, Any]]) -> None:
    sizes = [num_samples for num_samples, _ in ranks[0]["steps"]]
    seen: list[list[int]] = []
    for index, size in enumerate(sizes):
        of_step = [rank["steps"][index] for rank in ranks]
        assert {num_samples for num_samples, _ in of_step} == {size}
        assert len({len(micro_batches) for _, micro_batches in of_step}) == 1
        micro_batches = [micro for _, rank in of_step for micro in rank]
        assert sum(weight for _, weight in micro_batches) == pytest.approx(1.0)
        counted = [ids for ids, weight in micro_batches if weight]
        assert [len(ids) / size for ids in counted] == [weight for _, weight in micro_batches if weight]
        seen.append([id_ for ids in counted for id_ in ids])
        assert len(seen[-1]) == size
    flat = [id_ for ids in seen for id_ in ids]
    assert sorted(flat[:LENGTH]) == list(range(LENGTH))
    assert sorted(flat[LENGTH:]) == list(range(LENGTH))
    assert flat[:LENGTH] != flat[LENGTH:]
    for rank in ranks:
        assert rank["resumed"] == rank["steps"]
        assert rank["samples"] == ranks[0]["samples"]


@pytest.mark.parametrize("block_size", [1, 4, 100])
def test_one_rank_sees_every_sample_once_and_resumes_exactly(block_size: int, tmp_path: Path) -> None:
    write_shards(tmp_path)
    result = run_through(str(tmp_path), {"block_size": block_size})
    check_two_epochs([result])
    # One rank fills every step but an epoch's last.
    assert [num_samples for num_samples, _ in result["steps"]] == [6, 6, 6, 6, 3] * 2


def test_parquet_shards_resume_exactly_too(tmp_path: Path) -> None:
    write_shards(tmp_path)
    for path in sorted(tmp_path.glob("*.jsonl")):
        datasets.disable_progress_bars()
        datasets.Dataset.from_json(str(path), cache_dir=str(tmp_path / "cache")).to_parquet(
            path.with_suffix(".parquet")
        )
    check_two_epochs([run_through(str(tmp_path), {"kind": "parquet"})])


def run_cases(folder: str) -> list[dict[str, Any]]:
    return [run_through(f"{folder}/{case}", options) for case, (_, options) in enumerate(CASES)]


CASES = [
    (SHARDS, {}),
    ((1, LENGTH - 1), {}),  # one rank is done almost at once
    (SHARDS, {"size": 1}),  # steps smaller than the world: the rank with a share may be done, the other not
]


@pytest.mark.distributed
def test_two_ranks_see_every_sample_once_and_resume_exactly(tmp_path: Path) -> None:
    for case, (sizes, _) in enumerate(CASES):
        (tmp_path / str(case)).mkdir()
        write_shards(tmp_path / str(case), sizes)
    for ranks in zip(*run_on_ranks(2, run_cases, str(tmp_path)), strict=True):
        check_two_epochs(list(ranks))
        # One rank runs out first and pads until the other is done.
        steps = [micro_batches for rank in ranks for _, micro_batches in rank["steps"]]
        assert any(weight == 0.0 for micro_batches in steps for _, weight in micro_batches)


def refused_resume(folder: str, position: DataPosition) -> str:
    with pytest.raises(DataError) as error:
        open_stream(folder, position)
    return str(error.value)


@pytest.mark.distributed
def test_another_world_size_is_refused(tmp_path: Path) -> None:
    write_shards(tmp_path)
    data = open_stream(tmp_path)
    take_step(data)
    for message in run_on_ranks(2, refused_resume, str(tmp_path), data.position):
        assert "resumes with resources.workers: 1 only, not 2" in message


def test_order_depends_on_seed_and_epoch(tmp_path: Path) -> None:
    write_shards(tmp_path)
    first, same, other = (run_through(str(tmp_path), {"seed": seed}) for seed in (3, 3, 4))
    assert first == same
    assert first["steps"] != other["steps"]
    # Shards are dealt anew in each epoch, not only shuffled inside.
    assert len({open_stream(tmp_path, seed=seed, block_size=1).step(plan(1))[1].__next__().batch["id"].item()
                for seed in range(12)}) > 2  # fmt: skip


def test_the_last_step_takes_what_is_left(tmp_path: Path) -> None:
    write_shards(tmp_path)
    data = open_stream(tmp_path, total_samples=10)
    assert [take_step(data)[0] for _ in range(2)] == [6, 4]
    with pytest.raises(ValueError, match="All 10 samples"):
        data.step(plan(6))


def test_an_abandoned_step_is_served_again(tmp_path: Path) -> None:
    write_shards(tmp_path)
    data, undisturbed = open_stream(tmp_path), open_stream(tmp_path)
    for _ in range(3):
        next(data.step(plan(6, 2))[1])
        assert take_step(data) == take_step(undisturbed)


def test_the_batch_may_change_between_steps(tmp_path: Path) -> None:
    write_shards(tmp_path)
    data = open_stream(tmp_path)
    seen = [id_ for size in (5, 1, 9, 12) for ids, _ in take_step(data, size)[1] for id_ in ids]
    assert sorted(seen) == list(range(LENGTH))


def test_collate_gets_samples_and_its_errors_are_the_recipes(tmp_path: Path) -> None:
    write_shards(tmp_path)
    data = open_stream(tmp_path, collate=lambda samples: torch.stack([sample["x"] for sample in samples]))
    assert next(data.step(plan(4, None))[1]).batch.shape == (4, 2)
    broken = open_stream(tmp_path, collate=lambda samples: samples[0]["nothing"], code_folder=Path(__file__).parent)
    with pytest.raises(RecipeError, match=r"collate raised KeyError at test_stream.py:\d+"):
        next(broken.step(plan(4, None))[1])


def test_reading_leaves_the_trainings_random_numbers_alone(tmp_path: Path) -> None:
    write_shards(tmp_path)
    state = torch.get_rng_state()
    take_step(open_stream(tmp_path, collate=None))
    assert torch.equal(torch.get_rng_state(), state)


class ThreeRanks(Collectives):
    """Enough of a world of three for what is refused before any collective."""

    def __init__(self) -> None:
        self.rank, self.world_size = 0, 3


def test_shards_that_do_not_divide_are_refused(tmp_path: Path) -> None:
    write_shards(tmp_path)
    with pytest.raises(DataError, match=r"4 shards.* resources.workers: 3; legal numbers of workers: 1, 2, 4\."):
        StreamData(
            load(tmp_path), collate=None, seed=0, collectives=ThreeRanks(), total_samples=1, position=DataPosition(),
            device=CPU,
        )  # fmt: skip


def test_a_position_without_streams_is_refused(tmp_path: Path) -> None:
    write_shards(tmp_path)
    with pytest.raises(DataError, match="streaming: false"):
        open_stream(tmp_path, DataPosition(samples=4))


def test_a_damaged_shard_is_a_data_error(tmp_path: Path) -> None:
    write_shards(tmp_path)
    damaged = tmp_path / "shard_2.jsonl"
    damaged.write_text('{"id": 1, "x": [1')
    with pytest.raises(DataError, match="Reading the training stream"):
        open_stream(tmp_path, total_samples=LENGTH).step(plan(LENGTH))


def test_an_empty_stream_is_a_data_error() -> None:
    stream = datasets.Dataset.from_dict({"id": [1]}).to_iterable_dataset().filter(lambda sample: False)
    data = StreamData(
        stream, collate=None, seed=0, collectives=Collectives(), total_samples=1, position=DataPosition(), device=CPU
    )
    with pytest.raises(DataError, match="holds no samples"):
        data.step(plan(2))


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_evaluation_sees_each_sample_once(world_size: int, tmp_path: Path) -> None:
    write_shards(tmp_path)
    seen = []
    for rank in range(world_size):
        batches = evaluation_micro_batches(
            load(tmp_path), None, rank=rank, world_size=world_size, micro_batch_size=4, device=CPU
        )
        for batch, num_samples in batches:
            assert len(batch["id"]) == num_samples <= 4
            seen += batch["id"].tolist()
    assert sorted(seen) == list(range(LENGTH))


def test_what_a_stream_is(tmp_path: Path) -> None:
    write_shards(tmp_path)
    assert is_stream(load(tmp_path))
    assert not is_stream([1])
    assert "train.epochs needs the length" in str(stream_length_error("train.epochs"))
