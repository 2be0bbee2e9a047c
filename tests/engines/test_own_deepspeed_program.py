"""A layer-wise optimizer in a program that calls ``deepspeed.initialize`` itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from gloo import run_on_ranks
from torch import nn
from torch.nn import functional as F

from orchestrator.core.collectives import Collectives
from orchestrator.core.errors import UnsupportedLayoutError
from orchestrator.core.zero_layout import check_version, layout_of_partitions, prove_layout
from orchestrator.engines.deepspeed import import_deepspeed
from orchestrator.optim.attach import attach
from orchestrator.optim.lamb import Lamb

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(300)]

CONFIGS = {
    "zero 1": {"zero_optimization": {"stage": 1}},
    "zero 3": {"zero_optimization": {"stage": 3, "sub_group_size": 60, "stage3_param_persistence_threshold": 0}},
    "bf16 weights": {
        "bf16": {"enabled": True},
        "zero_optimization": {"stage": 1},
        "data_types": {"grad_accum_dtype": "fp32"},
    },
}
LR = 0.05


def initialize(config: dict[str, Any]) -> tuple[Any, Lamb]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(13, 7), nn.Tanh(), nn.Linear(7, 5))
    groups = [
        {"params": [p for p in model.parameters() if p.dim() > 1]},
        {"params": [p for p in model.parameters() if p.dim() == 1], "weight_decay": 0.0},
    ]
    optimizer = Lamb(groups, lr=LR)
    deepspeed = import_deepspeed(torch.device("cpu"))
    config = {"train_micro_batch_size_per_gpu": 4, "zero_allow_untested_optimizer": True, **config}
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config, dist_init_required=False)
    return engine, optimizer


def masters(engine: Any, collectives: Collectives) -> list[torch.Tensor]:
    """The fp32 weights of every parameter with two dimensions, whole on every rank."""
    whole = []
    for run in layout_of_partitions(engine.optimizer, collectives.rank).values():
        if len(run.shape) == 2:
            flat = torch.zeros(run.shape).flatten()
            flat[run.start : run.start + run.length] = run.view(run.flat)
            collectives.sum_(flat)
            whole.append(flat)
    return whole


def train(name: str, is_attached: bool) -> tuple[str, list[list[tuple[float, float]]], int]:
    """(length of the step, lr x norm) of each matrix in each of three steps, and the optimizer's count of them."""
    engine, optimizer = initialize(CONFIGS[name])
    if is_attached:
        attach(optimizer, engine)
    collectives = Collectives()
    torch.manual_seed(collectives.rank)
    seen = []
    for _ in range(3):
        before = masters(engine, collectives)
        batch = torch.randn(4, 13).to(next(engine.module.parameters()).dtype)
        engine.backward(F.mse_loss(engine(batch).float(), torch.ones(4, 5)))
        engine.step()
        after = masters(engine, collectives)
        seen.append([(float((b - a).norm()), LR * float(b.norm())) for b, a in zip(before, after, strict=True)])
    (count,) = {int(state["step"]) for state in optimizer.state.values()}
    return type(engine.optimizer).__name__, seen, count


@pytest.mark.parametrize("name", CONFIGS)
def test_a_step_moves_each_layer_by_its_share_of_its_norm(name: str) -> None:
    (kind, steps, count), *others = run_on_ranks(2, train, name, True)
    assert all(other == (kind, steps, count) for other in others)
    assert (kind == "BF16_Optimizer") == (name == "bf16 weights")
    assert [length for step in steps for length, _ in step] == pytest.approx(
        [share for step in steps for _, share in step], rel=1e-5
    )
    # DeepSpeed steps once for each partition; a counter for all of them would read more.
    assert count == 3


def refused(name: str) -> str:
    try:
        train(name, is_attached=False)
    except UnsupportedLayoutError as error:
        return str(error)
    return "was taken"


def test_a_partition_of_which_nothing_is_known_is_refused() -> None:
    messages = run_on_ranks(2, refused, "zero 1")
    assert all("attach()" in message and "may hold parts of many parameters" in message for message in messages)


def corrupted(name: str) -> str:
    engine, _ = initialize(CONFIGS[name])
    collectives = Collectives()
    runs = layout_of_partitions(engine.optimizer, collectives.rank)
    parameter, run = next((p, r) for p, r in runs.items() if r.length > 1)
    for wrong in (replace(run, length=run.length - 1), replace(run, offset=run.offset + 1)):
        try:
            prove_layout({**runs, parameter: wrong}, collectives)
        except UnsupportedLayoutError as error:
            message = str(error)
        else:
            return "was taken"
    return message


def test_a_layout_that_is_not_that_of_the_model_is_refused() -> None:
    assert (
        run_on_ranks(2, corrupted, "zero 1")
        == ["DeepSpeed divides the parameters in a way that this version does not know."] * 2
    )


def test_an_unknown_version_is_refused() -> None:
    with pytest.raises(UnsupportedLayoutError, match=r"deepspeed 0\.20\.1 is installed; known are 0\.19\."):
        check_version("0.20.1")
