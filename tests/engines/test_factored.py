"""Optimizers with factored second moments take one and the same step on whole tensors and on rows of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from engines.training import AWKWARD, MLP, engine_spec, largest_difference, prepare, run_cases
from gloo import run_on_ranks
from support import assert_same_weights
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.debug import CommDebugMode

from orchestrator.core.run_directory import RunDirectory
from orchestrator.core.state_naming import optimizer_pieces
from orchestrator.optim.adafactor import Adafactor
from orchestrator.optim.came import Came

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(600)]

STEPS = 20
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "adafactor": {"name": "adafactor", "lr": 0.05, "weight_decay": 0.1},
    "came": {"name": "came", "lr": 0.001, "weight_decay": 0.1},
}
RECIPES = {"mlp": MLP, "awkward": AWKWARD}
ENGINES = {
    "ddp": {"name": "ddp"},
    "fsdp2": {"name": "fsdp2"},
    "fsdp2 by name, offloaded": {"name": "fsdp2", "wrap_modules": ["blocks.*"], "cpu_offload": True},
    "zero 0": {"name": "deepspeed", "zero_stage": 0},
    "accelerate fsdp2": {"name": "accelerate", "config": {"distributed_type": "FSDP"}},
}
HYBRID = {"name": "fsdp2", "mesh": {"replicate": 2}}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], RunDirectory]:
    """20 steps of one process, by recipe and optimizer."""
    folder = tmp_path_factory.mktemp("whole")
    made = {
        (recipe, name): prepare(
            folder / recipe / name, engine_spec({"name": "ddp"}, 1, RECIPES[recipe], optimizer=optimizer)
        )
        for recipe in RECIPES
        for name, optimizer in OPTIMIZERS.items()
    }
    run_cases(1, [(directory, STEPS) for directory in made.values()])
    return made


@pytest.mark.parametrize(
    ("world_size", "engines"),
    [(2, ENGINES), (3, {"fsdp2": ENGINES["fsdp2"]}), (4, {"fsdp2": ENGINES["fsdp2"], "hybrid": HYBRID})],
    ids=["2 workers", "3 workers", "4 workers"],
)
def test_every_division_takes_the_same_steps(tmp_path: Path, whole: Any, world_size: int, engines: Any) -> None:
    # Accelerate's FSDP2 gives a tensor that is tied across its units two owners, which torch refuses.
    cells = [
        (title, recipe, name)
        for title in engines
        for recipe in RECIPES
        for name in OPTIMIZERS
        if (title, recipe) != ("accelerate fsdp2", "awkward")
    ]
    jobs = {
        cell: prepare(
            tmp_path / str(index),
            engine_spec(engines[cell[0]], world_size, RECIPES[cell[1]], optimizer=OPTIMIZERS[cell[2]]),
        )
        for index, cell in enumerate(cells)
    }
    run_cases(world_size, [(directory, STEPS) for directory in jobs.values()])
    differences = {cell: largest_difference(whole[cell[1:]], directory) for cell, directory in jobs.items()}
    assert differences == pytest.approx(dict.fromkeys(jobs, 0.0), abs=1e-6)


def test_a_checkpoint_goes_on_under_the_other_engine_and_number_of_workers(tmp_path: Path, whole: Any) -> None:
    """10 steps on 2 workers, 10 on 3; what stays under its engine and number of workers repeats bit for bit."""

    def job(*words: object, engine: str, name: str, workers: int, before: RunDirectory | None = None) -> RunDirectory:
        spec = engine_spec(ENGINES[engine], workers, optimizer=OPTIMIZERS[name])
        folder = tmp_path / " ".join(map(str, (engine, name, workers, *words)))
        return prepare(folder, spec, checkpoint=before and before.checkpoints / "step_10")

    pairs = [{"engine": engine, "name": name} for engine in ("ddp", "fsdp2") for name in OPTIMIZERS]
    straight = [job("straight", **pair, workers=2) for pair in pairs]
    first = [job("first", **pair, workers=2) for pair in pairs]
    run_cases(2, [(directory, 10) for directory in first] + [(directory, STEPS) for directory in straight])
    resumed = [job("resumed", **pair, workers=2, before=start) for pair, start in zip(pairs, first, strict=True)]
    run_cases(2, [(directory, STEPS) for directory in resumed])
    for one, other in zip(straight, resumed, strict=True):
        assert_same_weights(one, other)

    changed = {
        (pair["engine"], engine, pair["name"]): job(
            "after", pair["engine"], engine=engine, name=pair["name"], workers=3, before=start
        )
        for pair, start in zip(pairs, first, strict=True)
        for engine in ("ddp", "fsdp2")
    }
    metrics = run_cases(3, [(directory, STEPS) for directory in changed.values()])
    assert {lines[0]["step"] for lines in metrics} == {11}
    differences = {key: largest_difference(whole["mlp", key[2]], directory) for key, directory in changed.items()}
    assert differences == pytest.approx(dict.fromkeys(changed, 0.0), abs=1e-6)


WHOLE = 4
"""A tensor that is left out of the division: every rank adds its share of the same sums."""


class Batched(nn.Module):
    """Tensors of one to four dimensions; some ranks hold no row of the smallest."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        shapes = ((1,), (7,), (1, 5), (2, 3), (7, 5), (5, 1), (2, 3, 4), (5, 2, 3, 2))
        self.tensors = nn.ParameterList(nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes)

    def forward(self) -> torch.Tensor:
        return torch.stack([(tensor**3 + tensor).sum() for tensor in self.tensors]).sum()


def steps_of(kind: type[Adafactor | Came], replicas: int | None) -> tuple[list[torch.Tensor], list[int], set[str]]:
    """20 steps of a model that is divided in replica groups, or whole.

    Returns:
        Weights and state as whole tensors, the number of collectives in each step, and names of the state that all
        ranks hold.
    """
    model = Batched()
    if replicas is not None:
        ranks = torch.distributed.get_world_size()
        shape, names = ((ranks,), ("shard",)) if replicas == 1 else ((replicas, ranks // replicas), ("copy", "shard"))
        mesh = init_device_mesh("cpu", shape, mesh_dim_names=names)
        fully_shard(model, mesh=mesh, ignored_params={model.tensors[WHOLE]})
    optimizer = kind(model.parameters(), lr=0.01, weight_decay=0.1)
    counts = []
    for _ in range(STEPS):
        model().backward()
        with CommDebugMode() as communication:
            optimizer.step()
        counts.append(communication.get_total_counts())
        optimizer.zero_grad()
    on_all = {name for name, piece in optimizer_pieces(model, optimizer).items() if piece.on_all_ranks}
    tensors = [tensor for p in model.parameters() for tensor in (p.detach(), *optimizer.state[p].values())]
    return [t.full_tensor() if isinstance(t, DTensor) else t for t in tensors], counts, on_all


def steps_of_both(replicas: int | None) -> dict[str, Any]:
    return {kind.__name__: steps_of(kind, replicas) for kind in (Adafactor, Came)}


@pytest.mark.parametrize(("world_size", "replicas"), [(3, 1), (4, 2)])
def test_tensors_of_any_dimensions_and_one_message_a_level(world_size: int, replicas: int) -> None:
    expected = steps_of_both(None)
    for rank in run_on_ranks(world_size, steps_of_both, replicas):
        for name, messages in (("Adafactor", 2), ("Came", 3)):
            tensors, counts, on_all = rank[name]
            torch.testing.assert_close(tensors, expected[name][0], rtol=2e-6, atol=1e-6)
            assert counts == [messages] * STEPS
            # Columns of matrices and step counters only: everything else lies in rows.
            of_all = {key.rpartition(".")[2] for key in on_all if not key.startswith(f"optimizer.tensors.{WHOLE}.")}
            assert of_all <= {"step", "col_var", "exp_avg_sq_col", "exp_avg_res_col"}
            assert expected[name][1] == [0] * STEPS
