"""Optimizers that adapt to whole layers take one and the same step however an engine divides the layers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engines.test_equal import ENGINES, HYBRID
from engines.training import AWKWARD, MLP, SMALL_TEXT, engine_spec, largest_difference, prepare, run_cases, take_steps
from gloo import run_on_ranks

from orchestrator.core import tables
from orchestrator.core.run_directory import RunDirectory

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(600)]

STEPS = 20
SETTINGS: dict[str, dict[str, Any]] = {
    "lamb": {"name": "lamb", "lr": 0.02, "weight_decay": 0.1},
    "lamb, deepspeed": {"name": "lamb", "lr": 0.02, "weight_decay": 0.1, "preset": "deepspeed"},
    "lars": {"name": "lars", "lr": 0.5, "weight_decay": 0.01, "trust_coefficient": 0.04},
    "lars, normalized": {"name": "lars", "lr": 0.02, "weight_decay": 0.01, "momentum_style": "ema_normalized"},
    "lans": {"name": "lans", "lr": 0.02, "weight_decay": 0.1},
    "novograd": {"name": "novograd", "lr": 0.01, "weight_decay": 0.01},
    "lawn": {"name": "lawn", "lr": 0.01, "free_steps": 5},
    "swats": {"name": "swats", "lr": 0.003, "betas": [0.9, 0.95], "weight_decay": 0.01, "switch_tolerance": 0.02},
}
RECIPES = {"mlp": MLP, "awkward": AWKWARD, "text": SMALL_TEXT}
Reference = Callable[[str, str], RunDirectory]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """20 steps of one process, by recipe and optimizer."""
    folder = tmp_path_factory.mktemp("reference")
    made = {
        (recipe, name): prepare(
            folder / recipe / name, engine_spec({"name": "ddp"}, 1, RECIPES[recipe], optimizer=optimizer)
        )
        for recipe in RECIPES
        for name, optimizer in SETTINGS.items()
        if recipe == "mlp" or name == "lamb"
    }
    run_cases(1, [(directory, STEPS) for directory in made.values()])
    return lambda recipe, name: made[recipe, name]


def compare(
    tmp_path: Path, reference: Reference, world_size: int, recipe: str, engines: dict, names: list[str]
) -> None:
    jobs = {
        (title, name): prepare(
            tmp_path / title / name, engine_spec(engine, world_size, RECIPES[recipe], optimizer=SETTINGS[name])
        )
        for title, engine in engines.items()
        for name in names
    }
    run_cases(world_size, [(directory, STEPS) for directory in jobs.values()])
    differences = {cell: largest_difference(reference(recipe, cell[1]), directory) for cell, directory in jobs.items()}
    assert differences == pytest.approx(dict.fromkeys(jobs, 0.0), abs=1e-6)


@pytest.mark.parametrize("world_size", [2, 3])
def test_lamb_under_every_engine(tmp_path: Path, reference: Reference, world_size: int) -> None:
    compare(tmp_path, reference, world_size, "mlp", ENGINES, ["lamb"])


@pytest.mark.parametrize("world_size", [2, 3])
def test_every_layerwise_optimizer(tmp_path: Path, reference: Reference, world_size: int) -> None:
    # Rows, runs of a partition, runs of partitions that are stepped on one after another: every form of division.
    engines = {title: ENGINES[title] for title in ("fsdp2", "zero 1", "zero 3, offloaded in sub-groups")}
    compare(tmp_path, reference, world_size, "mlp", engines, list(SETTINGS))


def test_the_text_recipe(tmp_path: Path, reference: Reference) -> None:
    engines = {title: ENGINES[title] for title in ("ddp", "fsdp2", "zero 1", "zero 2", "zero 3", "accelerate zero 3")}
    compare(tmp_path, reference, 2, "text", engines, ["lamb"])


def test_tied_frozen_and_unused_parameters(tmp_path: Path, reference: Reference) -> None:
    engines = {title: engine for title, engine in ENGINES.items() if title != "accelerate fsdp2"}
    compare(tmp_path, reference, 2, "awkward", engines, ["lamb"])


def test_four_workers_and_replica_groups(tmp_path: Path, reference: Reference) -> None:
    engines = {"fsdp2": {"name": "fsdp2"}, "hybrid": HYBRID}
    compare(tmp_path, reference, 4, "mlp", engines, ["lamb", "lars", "lawn"])


@pytest.mark.parametrize("name", ["lamb", "novograd", "lawn", "swats"])
def test_state_goes_on_under_other_engines_and_numbers_of_workers(
    tmp_path: Path, reference: Reference, name: str
) -> None:
    """Moments, and the numbers that some keep for each layer, on a way through every form of division."""
    chain = (
        ("zero 1", 2, 6),
        ("ddp", 2, 9),
        ("zero 3, offloaded in sub-groups", 3, 13),
        ("fsdp2", 3, 16),
        ("zero 2", 2, 20),
    )
    checkpoint = None
    for index, (title, world_size, until) in enumerate(chain):
        spec = engine_spec(ENGINES[title], world_size, MLP, optimizer=SETTINGS[name])
        directory = prepare(tmp_path / str(index), spec, checkpoint=checkpoint)
        run_cases(world_size, [(directory, until)])
        checkpoint = directory.checkpoints / f"step_{until}"
    assert largest_difference(reference("mlp", name), directory) == pytest.approx(0.0, abs=1e-5)


def build_foreign_lamb(config: Any, model: Any, collectives: Any) -> Any:
    """A LAMB that knows nothing of partitions: pytorch_optimizer's, in the form of the paper."""
    from pytorch_optimizer import Lamb

    return Lamb(
        list(model.parameters()),
        lr=config.lr,
        betas=config.betas,
        weight_decay=config.weight_decay,
        weight_decouple=False,
        adam_debias=True,
        foreach=False,
    )


def take_foreign_steps(cases: list[str]) -> None:
    tables.OPTIMIZERS["lamb"] = f"{__name__}:build_foreign_lamb"
    for root in cases:
        take_steps(root, 5, (12,))


def test_the_comparison_finds_a_lamb_of_partitions(tmp_path: Path) -> None:
    """The negative control: what DeepSpeed's users get from a LAMB that is not told where layers lie."""
    stages = {f"zero {stage}": {"name": "deepspeed", "zero_stage": stage} for stage in (0, 1, 2, 3)}
    jobs = {
        title: prepare(tmp_path / title, engine_spec(engine, 2, optimizer=SETTINGS["lamb"]))
        for title, engine in {"ddp": {"name": "ddp"}, **stages}.items()
    }
    run_on_ranks(2, take_foreign_steps, [str(directory.root) for directory in jobs.values()])
    difference = {title: largest_difference(jobs["ddp"], directory) for title, directory in jobs.items()}
    assert difference["zero 0"] < 1e-6
    assert min(difference[f"zero {stage}"] for stage in (1, 2, 3)) > 1e-3
