"""Mixed precision on the CPU, with the same code that a GPU runs."""

from pathlib import Path

import pytest
import torch
from support import assert_same_weights, make_run_directory, tiny_spec, train_on, weights
from torch import nn

from orchestrator.core.collectives import Collectives
from orchestrator.core.parts import EngineParts
from orchestrator.data.micro_batch import LoadedMicroBatch
from orchestrator.engines.ddp import build_ddp
from orchestrator.engines.precision import DynamicLossScale
from orchestrator.exchange.all_reduce import AllReduceExchange
from orchestrator.spec.methods.distribution import AllReduce


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_it_trains_and_resumes_bit_for_bit(tmp_path: Path, precision: str) -> None:
    sections = {"train": {"steps": 20, "precision": precision, "clip_grad_norm": 1.0}, "checkpoint": {"every": 10}}
    whole = make_run_directory(tmp_path / "whole", tiny_spec(**sections))
    _, lines = train_on(1, whole)[0]
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert all(tensor.dtype == torch.float32 for tensor in weights(whole).values())
    assert ("loss_scale" in lines[0]) == (precision == "fp16")

    broken = make_run_directory(tmp_path / "broken", tiny_spec(**sections))
    broken.checkpoints.mkdir()
    (whole.checkpoints / "step_10").rename(broken.checkpoints / "step_10")
    train_on(1, broken)
    assert_same_weights(whole, broken)

    full = make_run_directory(tmp_path / "full", tiny_spec(**{**sections, "train": {"steps": 20}}))
    train_on(1, full)
    assert not weights(full)["0.weight"].equal(weights(whole)["0.weight"]), "the precision changed nothing"


def step_with(loss_factor: float) -> tuple[torch.Tensor, torch.Tensor, float]:
    """The weight before and after one fp16 step, and the loss scale after it."""
    torch.manual_seed(0)
    model = nn.Linear(4, 1, bias=False)
    before = model.weight.detach().clone()
    parts = EngineParts(
        spec=tiny_spec(train={"steps": 1, "precision": "fp16"}),
        model=model,
        build_optimizer=lambda model: torch.optim.SGD(model.parameters(), lr=1.0),
        build_exchange=lambda: AllReduceExchange(AllReduce(name="all_reduce"), Collectives()),
        collectives=Collectives(),
        device=torch.device("cpu"),
        code_folder=Path(),
        run_folder=Path(),
    )
    engine = build_ddp(parts)
    micro = LoadedMicroBatch(batch=torch.ones(2, 4), weight=1.0, is_last=True)
    engine.forward_backward(micro, lambda m, x: (m(x).float().mean() * loss_factor, {}))
    report = engine.step(lr=0.1)
    return before, model.weight.detach().clone(), float(report["loss_scale"])


def test_an_overflow_skips_the_step_and_halves_the_scale() -> None:
    before, after, scale = step_with(1e4)  # 65,536 x 1e4 / 2 is beyond fp16
    assert torch.equal(before, after)
    assert scale == 2**15


def test_without_an_overflow_the_gradient_is_unscaled_exactly() -> None:
    before, after, scale = step_with(2**-6)  # the gradient is 2^-6 in each component
    torch.testing.assert_close(after, before - 0.1 * 2**-6)
    assert scale == 2**16


def test_our_loss_scale_moves_as_torch_moves_its_own() -> None:
    scaler = torch.amp.GradScaler("cpu", growth_interval=3)
    ours = DynamicLossScale(enabled=True)
    scaler.scale(torch.ones(()))  # makes its state
    ours.load_state_dict(scaler.state_dict())
    parameter = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([parameter], lr=0.0)
    for overflowed in (False, True, False, False, False, True, True, False, False, False, False):
        parameter.grad = torch.full((1,), float("inf") if overflowed else 1.0)
        scaler.step(optimizer)
        scaler.update()
        ours.update(overflowed=overflowed)
        assert ours.state_dict() == scaler.state_dict()
