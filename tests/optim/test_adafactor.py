"""Adafactor against torch's own, and what torch's own does on divided tensors."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from gloo import run_on_ranks
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard, distribute_tensor

from orchestrator.core.collectives import Collectives
from orchestrator.core.errors import UnsupportedLayoutError
from orchestrator.core.layout import ShardLayout
from orchestrator.core.sums import squares, sums_along
from orchestrator.optim.adafactor import Adafactor, build_adafactor
from orchestrator.spec.methods.factored_optimizers import Adafactor as AdafactorConfig

SHAPES = [(), (1,), (9,), (1, 1), (7, 5), (1, 6), (6, 1), (3, 2, 4), (2, 3, 4, 5)]


def twins(dtype: torch.dtype = torch.float32) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The same parameters twice, of every number of dimensions, one of them zero."""
    generator = torch.Generator().manual_seed(1)
    tensors = [torch.randn(shape, generator=generator, dtype=dtype) for shape in SHAPES]
    tensors.append(torch.zeros(4, 3, dtype=dtype))
    return [nn.Parameter(t.clone()) for t in tensors], [nn.Parameter(t.clone()) for t in tensors]


def take_steps(optimizers: list[torch.optim.Optimizer], params: list[list[nn.Parameter]], scales: list[float]) -> None:
    """A step for each scale of the gradients, the same ones for all; every fourth is zero in its first row."""
    generator = torch.Generator().manual_seed(2)
    for index, scale in enumerate(scales):
        gradients = [torch.randn(p.shape, generator=generator, dtype=p.dtype) * scale for p in params[0]]
        for gradient in gradients:
            if index % 4 == 3 and gradient.dim():
                gradient[0] = 0
        for optimizer, tensors in zip(optimizers, params, strict=True):
            for tensor, gradient in zip(tensors, gradients, strict=True):
                tensor.grad = gradient.clone()
            optimizer.step()


OPTIONS: list[dict[str, Any]] = [
    {},
    {"lr": 0.3, "weight_decay": 0.1},
    {"lr": 0.05, "beta2_decay": -0.5, "eps": (1e-4, 0.1), "d": 2.0},
]


@pytest.mark.parametrize("options", OPTIONS, ids=["defaults", "decay", "others"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 3e-6), (torch.float64, 1e-12)])
def test_twenty_steps_are_torchs(options: dict[str, Any], dtype: torch.dtype, tolerance: float) -> None:
    ours, theirs = twins(dtype)
    optimizers = [Adafactor(ours, **options), torch.optim.Adafactor(theirs, **options)]
    take_steps(optimizers, [ours, theirs], [1.0, 1e-2, 10.0, 1e-9] * 5)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)
        state, torchs = optimizers[0].state[one], optimizers[1].state[other]
        assert state.keys() == torchs.keys()
        for key, value in torchs.items():
            torch.testing.assert_close(state[key], value, rtol=tolerance, atol=0)


def test_a_state_of_torch_goes_on_here() -> None:
    theirs, _ = twins()
    torchs = torch.optim.Adafactor(theirs, lr=0.1)
    take_steps([torchs], [theirs], [1.0] * 3)
    optimizer = Adafactor([nn.Parameter(p.detach().clone()) for p in theirs], lr=0.1)
    optimizer.load_state_dict(deepcopy(torchs.state_dict()))
    continued = optimizer.param_groups[0]["params"]
    take_steps([optimizer, torchs], [continued, theirs], [1.0] * 3)
    for one, other in zip(continued, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=3e-6, atol=3e-6)


def test_zero_gradients_move_nothing_and_gradients_are_left_alone() -> None:
    ours, _ = twins()
    before = [p.detach().clone() for p in ours]
    optimizer = Adafactor(ours, lr=0.1, eps=(1e-30, 1e-3))
    take_steps([optimizer], [ours], [0.0, 0.0])
    assert all(torch.equal(p, b) for p, b in zip(ours, before, strict=True))
    gradient = torch.full((7, 5), 2.0)
    ours[4].grad = gradient.clone()
    optimizer.step()
    assert torch.equal(ours[4].grad, gradient)
    assert all(bool(p.isfinite().all()) for p in ours)


def test_a_gradient_that_is_no_number_reaches_the_weights() -> None:
    parameter = nn.Parameter(torch.ones(3, 3))
    parameter.grad = torch.full((3, 3), float("nan"))
    Adafactor([parameter]).step()
    assert parameter.isnan().all()


def test_no_step_waits_for_the_device() -> None:
    """On the meta device nothing has a value: a step that asks for one fails."""
    parameters = [nn.Parameter(torch.empty(shape, device="meta")) for shape in SHAPES]
    for parameter in parameters:
        parameter.grad = torch.empty_like(parameter)
    Adafactor(parameters, weight_decay=0.1).step()


def test_decay_is_that_of_the_groups() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    optimizer = build_adafactor(AdafactorConfig(name="adafactor", weight_decay=0.01), model, Collectives())
    assert [(len(g["params"]), g["weight_decay"]) for g in optimizer.param_groups] == [(1, 0.01), (3, 0.0)]
    assert optimizer.param_groups[0]["eps"] == (None, 1e-3)


@pytest.mark.parametrize(("shape", "dim"), [((100_000, 3), -2), ((3, 100_000), -1), ((2, 1025, 3), -2), ((0, 3), -2)])
def test_means_of_long_columns_are_exact(shape: tuple[int, ...], dim: int) -> None:
    """Added one after the other in float32, 100,000 squares lose four digits: another split gives another mean."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    exact = x.double().square().sum(dim, keepdim=True)
    torch.testing.assert_close(sums_along(squares(x), dim), exact, rtol=5e-7, atol=0)


def test_flat_partitions_are_refused() -> None:
    layout = ShardLayout(runs={}, collectives=Collectives())
    with pytest.raises(UnsupportedLayoutError, match="Adafactor needs rows and columns"):
        Adafactor([nn.Parameter(torch.ones(3))]).attach(layout)


def step_on_fsdp2(torchs: bool) -> str:
    """What a step of torch's own or of ours says on a model that FSDP2 has divided."""
    mesh = init_device_mesh("cpu", (1,), mesh_dim_names=("shard",))
    model = nn.Linear(4, 3)
    fully_shard(model, mesh=mesh)
    model(torch.ones(2, 4)).sum().backward()
    optimizer = (torch.optim.Adafactor if torchs else Adafactor)(model.parameters())
    try:
        optimizer.step()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "stepped"


def step_on_columns() -> str:
    """What ours says of a matrix that is divided by columns."""
    mesh = init_device_mesh("cpu", (1,), mesh_dim_names=("shard",))
    parameter = nn.Parameter(distribute_tensor(torch.ones(4, 4), mesh, [Shard(1)]))
    parameter.grad = torch.ones_like(parameter)
    try:
        Adafactor([parameter]).step()
    except UnsupportedLayoutError as error:
        return str(error)
    return "stepped"


def answers() -> tuple[str, str, str]:
    return step_on_fsdp2(torchs=True), step_on_fsdp2(torchs=False), step_on_columns()


@pytest.mark.distributed
def test_torchs_own_does_not_step_under_fsdp2() -> None:
    """The negative control: an in-place operation on a norm that is still a sum to be finished."""
    ((torchs, ours, on_columns),) = run_on_ranks(1, answers)
    assert torchs.startswith("RuntimeError: "), torchs
    assert ours == "stepped"
    assert on_columns.startswith("Adafactor takes tensors that are divided by rows, not as (Shard(dim=1)")
