"""One all-reduce for each step, whatever divides the parameters; and what happens at its edges."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from gloo import run_on_ranks
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.profiler import ProfilerActivity, profile

from orchestrator.optim.lamb import Lamb
from orchestrator.optim.lans import Lans
from orchestrator.optim.lars import Lars
from orchestrator.optim.lawn import Lawn
from orchestrator.optim.layerwise import LayerwiseBase
from orchestrator.optim.novograd import NovoGrad

pytestmark = pytest.mark.distributed


def make_model() -> nn.Module:
    torch.manual_seed(1)
    # Two rows on three or four ranks: some of them hold nothing.
    return nn.Sequential(nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 2))


def groups_of(model: nn.Module) -> list[dict]:
    named = list(model.named_parameters())
    return [
        {"params": [(n, p) for n, p in named if p.dim() > 1], "weight_decay": 0.1},
        {"params": [(n, p) for n, p in named if p.dim() == 1], "weight_decay": 0.0},
    ]


def divide(model: nn.Module, how: str) -> None:
    if how == "fsdp2":
        fully_shard(model)
    elif how == "hybrid":
        fully_shard(model, mesh=init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard")))
    elif how == "tensor parallel":
        mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
        parallelize_module(model, mesh["tp"], {"0": ColwiseParallel(), "2": RowwiseParallel()})
        fully_shard(model, mesh=mesh["dp"])


def set_gradients(model: nn.Module, step: int) -> None:
    """The same gradient whatever divides it: of the whole parameter by its name's order, divided as the parameter."""
    for index, parameter in enumerate(model.parameters()):
        generator = torch.Generator().manual_seed(100 * step + index)
        whole = torch.randn(parameter.shape, generator=generator)
        parameter.grad = as_divided(whole, parameter)


def as_divided(whole: Tensor, parameter: Tensor) -> Tensor:
    if not isinstance(parameter, DTensor):
        return whole
    copies = distribute_tensor(whole, parameter.device_mesh, [Replicate()] * parameter.device_mesh.ndim)
    return copies.redistribute(parameter.device_mesh, parameter.placements)


def whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor.detach().clone()


def train(how: str, steps: int = 6) -> list[Tensor]:
    model = make_model()
    divide(model, how)
    optimizer = Lamb(groups_of(model), lr=0.05)
    for step in range(steps):
        set_gradients(model, step)
        optimizer.step()
    return [whole(parameter.detach()) for parameter in model.parameters()]


@pytest.mark.parametrize(("how", "world_size"), [("fsdp2", 2), ("fsdp2", 4), ("hybrid", 4), ("tensor parallel", 4)])
def test_divided_parameters_take_the_steps_of_whole_ones(how: str, world_size: int) -> None:
    expected = train("whole")
    for result in run_on_ranks(world_size, train, how):
        for ours, theirs in zip(result, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    assert (expected[0] - make_model()[0].weight).abs().max() > 0.01


BUILDERS = {
    "lamb": lambda groups: Lamb(groups),
    "lars": lambda groups: Lars(groups),
    "lans": lambda groups: Lans(groups),
    "novograd": lambda groups: NovoGrad(groups),
    "lawn": lambda groups: Lawn(groups, free_steps=0),
}


def count_reductions(how: str) -> dict[str, tuple[int, int]]:
    counts = {}
    for name, build in BUILDERS.items():
        model = make_model()
        divide(model, how)
        optimizer: LayerwiseBase = build(groups_of(model))
        set_gradients(model, 0)
        optimizer.step()
        set_gradients(model, 1)
        with CommDebugMode() as seen, profile(activities=[ProfilerActivity.CPU]) as profiled:
            optimizer.step()
        in_profile = sum(1 for event in profiled.events() if event.name.startswith("gloo:"))
        counts[name] = (seen.get_total_counts(), in_profile)
    return counts


@pytest.mark.parametrize(("how", "world_size"), [("fsdp2", 2), ("hybrid", 4)])
def test_the_reductions_of_a_step(how: str, world_size: int) -> None:
    for counts in run_on_ranks(world_size, count_reductions, how):
        by_profiler = {name: profiled for name, (_, profiled) in counts.items()}
        assert by_profiler == {"lamb": 1, "lars": 1, "lans": 2, "novograd": 1, "lawn": 2}


def test_whole_parameters_need_no_reduction() -> None:
    for counts in run_on_ranks(2, count_reductions, "whole"):
        assert set(counts.values()) == {(0, 0)}


def step_with_trouble(trouble: str) -> tuple[list[Tensor], int]:
    model = make_model()
    fully_shard(model)
    optimizer = Lamb(groups_of(model), lr=0.05)
    set_gradients(model, 0)
    if dist.get_rank() == 1:
        for parameter in model.parameters():
            if trouble == "no gradient":
                parameter.grad = None
            elif parameter.dim() > 1:
                parameter.grad.to_local().fill_(float(trouble))
    optimizer.step()
    return [whole(parameter.detach()) for parameter in model.parameters()], dist.get_rank()


@pytest.mark.parametrize("trouble", ["nan", "inf"])
def test_what_is_not_finite_on_one_rank_reaches_all(trouble: str) -> None:
    for weights, _ in run_on_ranks(2, step_with_trouble, trouble):
        matrices = [weight for weight in weights if weight.dim() > 1]
        assert all(weight.isnan().all() for weight in matrices[:2])


@pytest.mark.timeout(60)
def test_a_rank_without_gradients_holds_nobody_up() -> None:
    (first, _), (second, _) = run_on_ranks(2, step_with_trouble, "no gradient")
    assert all(torch.equal(a, b) and a.isfinite().all() for a, b in zip(first, second, strict=True))


def bits_after(steps: int) -> list[Tensor]:
    return train("fsdp2", steps)


def test_two_runs_and_all_ranks_agree_bit_for_bit() -> None:
    runs = [*run_on_ranks(2, bits_after, 30), *run_on_ranks(2, bits_after, 30)]
    for other in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], other, strict=True))
