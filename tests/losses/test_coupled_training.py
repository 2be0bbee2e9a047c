"""Contrastive losses in the product's own loop: any number of workers and any engine take the steps of one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support import assert_same_weights, make_run_directory, tiny_spec, train_here, train_on

from orchestrator.core.errors import RecipeError
from orchestrator.core.run_directory import RunDirectory
from orchestrator.spec.job import JobSpec

ENGINES: dict[str, dict[str, Any]] = {
    "ddp": {"name": "ddp"},
    "fsdp2": {"name": "fsdp2"},
    "fsdp2 by size": {"name": "fsdp2", "wrap_min_parameters": 50},
    "zero 2": {"name": "deepspeed", "zero_stage": 2},
    "zero 3": {"name": "deepspeed", "zero_stage": 3},
}


def spec(args: dict[str, Any] | None = None, **sections: Any) -> JobSpec:
    """302 samples in steps of 100: the last one has fewer samples than there are workers."""
    # Slow enough that weights stay near 1, where 1e-6 means what it says.
    optimizer = {"name": "sgd", "lr": 0.01, "momentum": 0.9}
    defaults = {"train": {"samples": 302}, "batch": {"global_size": 100}, "optimizer": optimizer}
    return tiny_spec(recipe={"target": "paired.py:Pairs", "args": args or {}}, **{**defaults, **sections})


def train(root: Path, workers: int, args: dict[str, Any], **sections: Any) -> tuple[RunDirectory, dict[str, Any]]:
    """The run directory and the last line of metrics."""
    directory = make_run_directory(root, spec(args, resources={"workers": workers}, **sections))
    outcomes = train_on(workers, directory)
    return directory, outcomes[0][1][-1]


@pytest.mark.distributed
@pytest.mark.parametrize("kind", ["softmax", "shift", "bidirectional"])
def test_three_workers_are_one_and_chunks_are_none(tmp_path: Path, kind: str) -> None:
    alone, _ = train(tmp_path / "alone", 1, {"kind": kind})
    for name, workers, chunk_size in (("three", 3, None), ("chunks", 1, 9), ("three in chunks", 3, 9)):
        other, _ = train(tmp_path / name, workers, {"kind": kind, "chunk_size": chunk_size})
        assert_same_weights(alone, other, atol=1e-6)


@pytest.mark.distributed
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("chunk_size", [None, 20])
def test_every_engine_takes_the_same_steps(tmp_path: Path, engine: str, chunk_size: int | None) -> None:
    alone, _ = train(tmp_path / "alone", 1, {"kind": "shift"})
    args = {"kind": "shift", "chunk_size": chunk_size}
    divided, _ = train(tmp_path / "divided", 2, args, engine=ENGINES[engine])
    assert_same_weights(alone, divided, atol=1e-6)


@pytest.mark.distributed
@pytest.mark.parametrize("engine", ["ddp", "fsdp2 by size"])
def test_predictions_of_all_workers_are_evaluated_together(tmp_path: Path, engine: str) -> None:
    """20 held-out pairs in batches of 6: alone four, over three workers two each, one of them padding."""
    short = {"train": {"samples": 12}, "batch": {"global_size": 6}}
    _, alone = train(tmp_path / "alone", 1, {}, **short)
    _, three = train(tmp_path / "three", 3, {}, engine=ENGINES[engine], **short)
    assert alone["eval/told"] == three["eval/told"]
    assert alone["eval/order"] == pytest.approx(three["eval/order"], abs=1e-4)
    assert "eval/loss" not in alone


def test_predictions_that_nobody_makes_are_asked_for(tmp_path: Path) -> None:
    directory = make_run_directory(tmp_path / "run", spec())
    source = directory.code / "paired.py"
    source.write_text(source.read_text(encoding="utf-8").replace("def predict", "def foresee"), encoding="utf-8")
    with pytest.raises(RecipeError, match=r"Pairs has evaluate_all and no predict\. Legal: predict\(model, batch\)"):
        train_here(str(directory.root))


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"batch": {"global_size": 100, "micro_size": 50}}, r"batch.micro_size = 50: paired.py:Pairs couples.*null"),
        ({"batch": {"global_size": 100, "micro_size": "auto"}}, r'batch.micro_size = "auto".*Legal: null'),
        (
            {"exchange": {"name": "coded", "scheme": "uncoded"}, "resources": {"workers": 2}},
            r'exchange.name = "coded".*computed by itself. Legal: all_reduce or delayed',
        ),
        (
            {"exchange": {"name": "asynchronous"}, "resources": {"workers": 2}},
            r'exchange.name = "asynchronous".*Legal: all_reduce or delayed',
        ),
    ],
)
def test_what_cuts_a_batch_is_refused_at_the_start(tmp_path: Path, sections: dict[str, Any], message: str) -> None:
    directory = make_run_directory(tmp_path / "run", spec(**sections))
    with pytest.raises(RecipeError, match=message):
        train_here(str(directory.root))


def test_the_loss_itself_refuses_a_cut_batch_that_nobody_declared(tmp_path: Path) -> None:
    batch = {"global_size": 100, "micro_size": 50}
    directory = make_run_directory(tmp_path / "run", spec({"declared": False}, batch=batch))
    with pytest.raises(RecipeError, match=r"softmax_contrastive couples.*batch\.micro_size cuts them.*Legal: null"):
        train_here(str(directory.root))


def test_the_loss_itself_refuses_to_be_computed_by_a_worker_that_is_alone(tmp_path: Path) -> None:
    import torch

    from orchestrator.core.flat_shards import FlatShards
    from orchestrator.core.served import Publication, RoundRequest
    from orchestrator.train.sources import build_model, read_source
    from orchestrator.train.worker_model import WorkerModel

    served = spec({"declared": False}, exchange={"name": "coded", "scheme": "uncoded"}, resources={"workers": 2})
    directory = make_run_directory(tmp_path / "run", served)
    model = build_model(served, read_source(served, directory.code).recipe, directory.code)
    flats = tuple(flat.numpy().copy() for flat in FlatShards(model, 1).weights)
    worker = WorkerModel(
        served,
        directory.code,
        num_shards=1,
        device=torch.device("cpu"),
        fetch=lambda handle: handle,
        begin_micro_batch=lambda micro: None,
    )
    request = RoundRequest(
        model=0, phase=0, step=0, position=0, num_samples=100, num_counted=100, micro_batch_size=None
    )
    worker.prepare(request, Publication(version=0, flats=flats, buffers={}, unchanging={}))
    with pytest.raises(RecipeError, match=r"softmax_contrastive couples.*each part of a batch.*exchange: all_reduce"):
        worker.compute(request, 0, 1.0, (1, 1))
