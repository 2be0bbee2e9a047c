"""`micro_size: auto` finds the largest micro-batch that fits, once for each model and machine."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from gloo import run_on_ranks
from support import ListTracker, assert_same_weights, job_here, make_run_directory, tiny_spec, train_on

from orchestrator.core.errors import RecipeError
from orchestrator.core.run_directory import RunDirectory
from orchestrator.train.loop import train
from orchestrator.train.micro_size import CACHE_FOLDER, Found, MicroSizeSearch, candidates, largest_fitting

GIB = 2**30


def test_candidates_are_what_halving_gives() -> None:
    assert candidates(100) == [1, 2, 4, 7, 13, 25, 50, 100]
    assert candidates(1) == [1]


@pytest.mark.parametrize(("limit", "expected"), [(1000, 64), (999, 32), (140, 2), (120, 1), (110, None)])
def test_the_largest_that_fits_is_taken_and_nothing_is_tried_that_is_not_expected_to(
    limit: int, expected: int | None
) -> None:
    tried = []

    def peak_of(size: int) -> int:
        tried.append(size)
        return 104 + 14 * size  # 64 take 1,000

    found = largest_fitting(candidates(64), peak_of, limit)
    assert (found and found.micro_size) == expected
    if found is not None:
        assert found == Found(micro_size=expected, peak_bytes=104 + 14 * expected, limit_bytes=limit)
    # A line through two peaks tells the next.
    assert tried == [
        size for size in candidates(64) if size <= max(expected or 1, 2) and not (limit == 110 and size > 1)
    ]


def test_a_size_that_runs_out_of_memory_does_not_fit() -> None:
    found = largest_fitting([1, 2, 4], lambda size: None if size > 1 else 50, 100)
    assert found == Found(micro_size=1, peak_bytes=50, limit_bytes=100)
    assert largest_fitting([1, 2], lambda size: None, 100) is None


def test_sizes_that_a_recipe_does_not_take_are_passed_over_at_the_lower_end_only() -> None:
    def peak_of(size: int) -> int:
        if size in refused:
            raise RecipeError(f"not {size}")
        return size

    refused = {1, 2}
    found = largest_fitting([1, 2, 4, 8], peak_of, 5)
    assert found == Found(micro_size=4, peak_bytes=4, limit_bytes=5)
    refused = {4}
    with pytest.raises(RecipeError, match="not 4"):
        largest_fitting([1, 2, 4, 8], peak_of, 100)
    refused = {1, 2, 4, 8}
    with pytest.raises(RecipeError, match="not 8"):
        largest_fitting([1, 2, 4, 8], peak_of, 100)


def auto_spec(workers: int, **sections: Any):
    batch = {"global_size": 200, "micro_size": "auto"}
    return tiny_spec(**{"resources": {"workers": workers}, "batch": batch, **sections})


class Memory:
    """In place of the process's memory: what the recipe is given decides."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, limit_bytes: int, per_sample: int) -> None:
        self.sizes: list[int] = []
        original = MicroSizeSearch._step

        def step(search: MicroSizeSearch, engine: Any, size: int) -> None:
            self.sizes.append(size)
            original(search, engine, size)

        monkeypatch.setattr(MicroSizeSearch, "_step", step)
        monkeypatch.setattr(MicroSizeSearch, "_used", lambda search: per_sample * self.sizes[-1])
        monkeypatch.setattr(MicroSizeSearch, "_limit", lambda search: limit_bytes)


def run(directory: RunDirectory) -> tuple[ListTracker, int | None]:
    """Train the job in this process; its events, and the most samples of one backward."""
    tracker = ListTracker()
    job = job_here(str(directory.root), tracker)
    sizes = []
    loss = job.loss

    def counted(model: torch.nn.Module, batch: Any) -> Any:
        sizes.append(len(batch["label"]))
        return loss(model, batch)

    job.loss = counted
    train(job)
    return tracker, max(sizes)


def found_of(tracker: ListTracker) -> dict[str, Any]:
    (fields,) = (fields for name, fields in tracker.events if name == "micro_size")
    return fields


def test_a_job_trains_with_what_was_found_and_the_next_one_knows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Memory(monkeypatch, limit_bytes=700, per_sample=10)
    tracker, largest = run(make_run_directory(tmp_path / "first", auto_spec(1)))
    assert found_of(tracker) == {"micro_size": 50, "peak_bytes": 500, "limit_bytes": 700, "found_before": False}
    assert largest == 50
    assert memory.sizes == [1, 2, 4, 7, 13, 25, 50]
    tracker, largest = run(make_run_directory(tmp_path / "second", auto_spec(1)))
    assert found_of(tracker) == {"micro_size": 50, "peak_bytes": 500, "limit_bytes": 700, "found_before": True}
    assert largest == 50
    assert len(memory.sizes) == 7
    # Another model is another question.
    wide = auto_spec(1, recipe={"target": "tiny.py:Digits", "args": {"hidden": 32}})
    tracker, _ = run(make_run_directory(tmp_path / "wide", wide))
    assert found_of(tracker)["found_before"] is False
    assert len(list((tmp_path / CACHE_FOLDER).iterdir())) == 2


def test_a_damaged_answer_is_found_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Memory(monkeypatch, limit_bytes=10**6, per_sample=10)
    run(make_run_directory(tmp_path / "first", auto_spec(1)))
    (answer,) = (tmp_path / CACHE_FOLDER).iterdir()
    answer.write_text("{", encoding="utf-8")
    tracker, _ = run(make_run_directory(tmp_path / "second", auto_spec(1)))
    assert found_of(tracker) == {"micro_size": 200, "peak_bytes": 2000, "limit_bytes": 10**6, "found_before": False}
    assert json.loads(answer.read_text(encoding="utf-8"))["micro_size"] == 200


def test_the_search_leaves_no_trace_in_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Memory(monkeypatch, limit_bytes=700, per_sample=10)
    model = {"target": "tiny.py:Digits", "args": {"batch_norm": True, "dropout": 0.2}}
    auto = make_run_directory(tmp_path / "auto", auto_spec(1, recipe=model, optimizer={"name": "lamb", "lr": 0.02}))
    fixed_spec = tiny_spec(
        batch={"global_size": 200, "micro_size": 50}, recipe=model, optimizer={"name": "lamb", "lr": 0.02}
    )
    fixed = make_run_directory(tmp_path / "fixed", fixed_spec)
    for directory in (auto, fixed):
        train_on(1, directory)
    assert_same_weights(auto, fixed)


def test_one_sample_that_does_not_fit_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Memory(monkeypatch, limit_bytes=5, per_sample=10)
    with pytest.raises(RecipeError, match="a single sample takes more than the"):
        run(make_run_directory(tmp_path / "job", auto_spec(1)))


def test_what_a_spec_allows_is_the_limit(tmp_path: Path) -> None:
    """Real memory of this process, which is far below 64 GiB and above 1 MiB."""
    roomy = auto_spec(1, resources={"workers": 1, "memory_gib_per_worker": 64})
    tracker, largest = run(make_run_directory(tmp_path / "roomy", roomy))
    assert largest == 200
    found = found_of(tracker)
    assert found["limit_bytes"] == 64 * GIB
    assert 2**20 < found["peak_bytes"] < 64 * GIB
    tight = auto_spec(1, resources={"workers": 1, "memory_gib_per_worker": 2**-10})
    with pytest.raises(RecipeError, match="micro_size: auto"):
        run(make_run_directory(tmp_path / "tight", tight))


def search_on_ranks(root: str, limits: list[int]) -> tuple[int, dict[str, Any] | None]:
    def limit(search: MicroSizeSearch) -> int:
        return limits[search._context.collectives.rank]

    sizes: list[int] = []
    original = MicroSizeSearch._step

    def step(search: MicroSizeSearch, engine: Any, size: int) -> None:
        sizes.append(size)
        original(search, engine, size)

    MicroSizeSearch._limit, MicroSizeSearch._step = limit, step  # type: ignore[method-assign]
    MicroSizeSearch._used = lambda search: 10 * sizes[-1]  # type: ignore[method-assign]
    tracker = ListTracker()
    job = job_here(root, tracker)
    train(job)
    return job.data.position.samples, found_of(tracker)


@pytest.mark.distributed
@pytest.mark.timeout(300)
@pytest.mark.parametrize("engine", [{"name": "ddp"}, {"name": "fsdp2"}, {"name": "deepspeed", "zero_stage": 2}])
def test_the_rank_with_the_least_memory_decides(tmp_path: Path, engine: dict[str, Any]) -> None:
    directory = make_run_directory(tmp_path / "job", auto_spec(2, engine=engine))
    ranks = run_on_ranks(2, search_on_ranks, str(directory.root), [900, 300])
    assert [found for _, found in ranks] == [
        {"micro_size": 25, "peak_bytes": 250, "limit_bytes": 300, "found_before": False}
    ] * 2
    assert [samples for samples, _ in ranks] == [1200, 1200]
