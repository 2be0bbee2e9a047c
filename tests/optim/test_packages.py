"""Optimizers of packages: what they train by hand they train in a job, on every engine that they are admitted to."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_optimizer
import torch
import torch.distributed as dist
from gloo import run_on_ranks
from methods.settings import SETTINGS
from pydantic import ValidationError
from support import assert_same_weights, make_run_directory, tiny_spec, train_here, train_on, weights
from torch import nn
from torch.nn import functional as F

from orchestrator.core.collectives import Collectives
from orchestrator.core.errors import RecipeError
from orchestrator.core.run_directory import RunDirectory
from orchestrator.core.seeding import seed_everything
from orchestrator.core.tables import OPTIMIZERS, load
from orchestrator.data.sampler import GlobalOrder
from orchestrator.optim.state_in_tensors import StateInTensors
from orchestrator.spec.methods.package_optimizers import Muon, Prodigy

BETAS = (0.8, 0.95)
STEPS = 12
DECAY = 0.1

# The arguments in a spec, and the same optimizer built by hand from groups that say who is decayed.
BY_HAND: dict[str, tuple[dict[str, Any], Callable[[list[dict[str, Any]]], torch.optim.Optimizer]]] = {
    "radam": (
        {"lr": 0.02, "betas": list(BETAS), "eps": 1e-7, "decoupled_weight_decay": True},
        lambda groups: torch.optim.RAdam(groups, lr=0.02, betas=BETAS, eps=1e-7, decoupled_weight_decay=True),
    ),
    "nadam": (
        {"lr": 0.02, "betas": list(BETAS), "momentum_decay": 0.01},
        lambda groups: torch.optim.NAdam(groups, lr=0.02, betas=BETAS, momentum_decay=0.01),
    ),
    "adagrad": (
        {"lr": 0.05, "lr_decay": 0.1, "initial_accumulator_value": 0.01},
        lambda groups: torch.optim.Adagrad(groups, lr=0.05, lr_decay=0.1, initial_accumulator_value=0.01),
    ),
    "lion": (
        {"lr": 0.003, "betas": list(BETAS)},
        lambda groups: pytorch_optimizer.Lion(groups, lr=0.003, betas=BETAS),
    ),
    "adabelief": (
        {"lr": 0.01, "betas": list(BETAS), "rectify": True, "ams_bound": True},
        lambda groups: pytorch_optimizer.AdaBelief(groups, lr=0.01, betas=BETAS, rectify=True, ams_bound=True),
    ),
    "adopt": (
        {"lr": 0.01, "betas": list(BETAS), "decoupled_weight_decay": True},
        lambda groups: pytorch_optimizer.ADOPT(groups, lr=0.01, betas=BETAS, weight_decouple=True),
    ),
    "adabound": (
        {"lr": 0.01, "final_lr": 0.05, "gamma": 0.1, "ams_bound": True},
        lambda groups: pytorch_optimizer.AdaBound(groups, lr=0.01, final_lr=0.05, gamma=0.1, ams_bound=True),
    ),
    "mars": (
        {"lr": 0.01, "gamma": 0.05, "mars_type": "shampoo", "lr_multiplier_1d": 0.5},
        lambda groups: pytorch_optimizer.MARS(
            groups, lr=0.01, gamma=0.05, mars_type="shampoo", lr_1d=0.005, weight_decay_1d=0.0
        ),
    ),
    "dadapt_adam": (
        {"d0": 1e-3, "growth_rate": 1.5, "bias_correction": True, "decoupled_weight_decay": True},
        lambda groups: pytorch_optimizer.DAdaptAdam(
            groups, d0=1e-3, growth_rate=1.5, bias_correction=True, weight_decouple=True
        ),
    ),
    "prodigy": (
        {"d0": 1e-3, "d_coef": 2.0, "beta3": 0.9, "safeguard_warmup": True},
        lambda groups: pytorch_optimizer.Prodigy(groups, d0=1e-3, d_coef=2.0, beta3=0.9, safeguard_warmup=True),
    ),
    "muon": (
        {"lr": 0.02, "momentum": 0.9, "use_adjusted_lr": True, "adamw_lr_multiplier": 0.5, "adamw_for": ["4"]},
        lambda groups: pytorch_optimizer.Muon(
            [
                {**groups[0], "params": groups[0]["params"][:1], "lr": 0.02, "use_muon": True},
                {**groups[0], "params": groups[0]["params"][1:], "lr": 0.01, "use_muon": False},
                {**groups[1], "lr": 0.01, "use_muon": False},
            ],
            momentum=0.9,
            use_adjusted_lr=True,
        ),
    ),
}
COUNTING = ["adagrad", "adopt", "adabound"]
"""Of every engine, and their step depends on what their package does not keep with an engine's own parameters."""


def test_every_optimizer_of_a_package_is_compared() -> None:
    assert set(BY_HAND) == {name for name, path in OPTIMIZERS.items() if "optim.packages:" in path}


@pytest.mark.parametrize("name", BY_HAND)
def test_weights_equal_those_of_a_hand_written_loop(tmp_path: Path, name: str) -> None:
    arguments, build = BY_HAND[name]
    spec = tiny_spec(
        optimizer={"name": name, "weight_decay": DECAY, **arguments},
        train={"steps": STEPS},
        schedule={"name": "polynomial"},
    )
    directory = make_run_directory(tmp_path / "run", spec)
    train_on(1, directory)

    from tiny import Digits  # the recipe, importable since the run above

    recipe = Digits()
    rows, _ = recipe.build_datasets()
    seed_everything(0)
    model = recipe.build_model()
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    optimizer = build([{"params": matrices, "weight_decay": DECAY}, {"params": vectors, "weight_decay": 0.0}])
    peaks = [group["lr"] for group in optimizer.param_groups]
    order = GlobalOrder(len(rows), 0)
    for step in range(STEPS):
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * (1 - step / STEPS)
        ids = order.take(step * 48, 48)
        optimizer.zero_grad()
        images = torch.stack([rows[i]["image"] for i in ids])
        F.cross_entropy(model(images), torch.tensor([rows[i]["label"] for i in ids])).backward()
        optimizer.step()
    for key, tensor in weights(directory).items():
        torch.testing.assert_close(tensor, model.state_dict()[key], rtol=0, atol=1e-6)


def train_then_resume(pairs: list[tuple[str, str]]) -> None:
    """Train each first job on this rank, and each second one from the middle of the first."""
    for whole, rest in pairs:
        train_here(whole)
        if dist.get_rank() == 0:
            checkpoint = RunDirectory(Path(whole)).checkpoints / "step_2"
            shutil.copytree(checkpoint, RunDirectory(Path(rest)).checkpoints / checkpoint.name)
        dist.barrier()
        train_here(rest)


@pytest.mark.distributed
def test_steps_counted_as_a_whole_and_in_parts_are_the_same(tmp_path: Path) -> None:
    """ZeRO 3 calls an optimizer once for every part of a group, where the group's own counter would run ahead."""
    parts = {"sub_group_size": 100}
    engine = {"name": "deepspeed", "zero_stage": 3, "offload_optimizer": "cpu", "config": {"zero_optimization": parts}}
    pairs = []
    for name in COUNTING:
        sections = {
            **SETTINGS["optimizer"][name],
            "train": {"steps": 4},
            "checkpoint": {"every": 2},
            "resources": {"workers": 2},
        }
        whole = make_run_directory(tmp_path / name / "ddp", tiny_spec(**sections))
        rest = make_run_directory(tmp_path / name / "zero", tiny_spec(**sections, engine=engine))
        pairs.append((whole, rest))
    run_on_ranks(2, train_then_resume, [(str(whole.root), str(rest.root)) for whole, rest in pairs])
    for whole, rest in pairs:
        assert_same_weights(whole, rest, atol=1e-5)


def layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(6, 4), nn.Linear(4, 5), nn.Linear(5, 3))


def test_a_group_stepped_on_in_parts_has_one_step_per_step() -> None:
    parameters = [nn.Parameter(torch.ones(3)) for _ in range(3)]
    optimizer = StateInTensors(pytorch_optimizer.ADOPT(parameters, lr=0.1), {"step": 0})
    for _ in range(2):
        for parameter in parameters:
            parameter.grad = torch.ones(3)
            optimizer.param_groups[0]["params"] = [parameter]
            optimizer.step()
    assert [float(optimizer.state[p]["step"]) for p in parameters] == [2.0, 2.0, 2.0]


def test_all_state_is_tensors_after_one_step() -> None:
    for name in BY_HAND:
        config = tiny_spec(**SETTINGS["optimizer"][name]).optimizer
        model = layers()
        optimizer = load(OPTIMIZERS, name)(config, model, collectives=Collectives())
        model(torch.tensor([1, 2])).sum().backward()
        optimizer.step()
        assert set(optimizer.state) == set(model.parameters()), name
        assert all(isinstance(v, torch.Tensor) for state in optimizer.state.values() for v in state.values()), name


def muon_names(config: Muon) -> set[str]:
    model = layers()
    optimizer = load(OPTIMIZERS, "muon")(config, model, collectives=Collectives())
    groups = [group for group in optimizer.param_groups if group["use_muon"]]
    return {name for group in groups for name in group["param_names"]}


def test_muon_leaves_embeddings_and_vectors_to_adamw() -> None:
    assert muon_names(Muon(name="muon")) == {"1.weight", "2.weight"}
    assert muon_names(Muon(name="muon", adamw_for=("Embedding", "2"))) == {"1.weight"}
    assert muon_names(Muon(name="muon", adamw_for=("2",))) == {"0.weight", "1.weight"}


def test_a_pattern_of_muon_that_matches_nothing_is_an_error() -> None:
    with pytest.raises(RecipeError, match=r"adamw_for: no parameter of Sequential matches 'head'"):
        muon_names(Muon(name="muon", adamw_for=("head",)))


def test_one_rate_for_all_is_not_multiplied_for_some() -> None:
    with pytest.raises(ValidationError, match="lr_multiplier must be 1"):
        Prodigy.model_validate({"name": "prodigy", "param_groups": [{"match": ["head"], "lr_multiplier": 0.1}]})
    Prodigy.model_validate({"name": "prodigy", "param_groups": [{"match": ["head"], "weight_decay": 0.0}]})
