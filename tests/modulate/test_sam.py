"""Sharpness-aware minimization against moved weights, however a batch is divided, and where it must change nothing."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from engines.training import AWKWARD, engine_spec, largest_difference, prepare, run_cases
from support import assert_same_weights, make_run_directory, tiny_by_hand, tiny_spec, train_on, weights
from torch import Tensor, nn
from torch.nn import functional as F

from orchestrator.core.batches import cut
from orchestrator.core.errors import RecipeError
from orchestrator.core.run_directory import RunDirectory
from orchestrator.engines.modules import checkpoint_activations
from orchestrator.modulate.loss.sam import SharpnessAwareLoss, displaced
from orchestrator.spec.job import ActivationCheckpointing
from orchestrator.spec.methods.loss_modulators import Sam

RHO = 0.3
SHARES = [(0, 4), (4, 7), (7, 10)]
"""Of 10 samples, in groups of at most 4."""


class Net(nn.Module):
    """Tied, frozen and unused parameters, one that is used past its layer, batch norm, dropout."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.inlet = nn.Linear(5, 6)
        self.norm = nn.BatchNorm1d(6)
        self.blocks = nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6)])
        self.blocks[1].weight = self.blocks[0].weight
        self.outlet = nn.Linear(6, 3)
        self.outlet.bias.requires_grad_(False)
        self.unused = nn.Parameter(torch.ones(2))
        self.drop = nn.Dropout(dropout)
        self.masks: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.inlet(x))
        for block in self.blocks:
            x = torch.tanh(block(x))
        kept = self.drop(torch.ones_like(x))
        self.masks.append(kept)
        return self.outlet(x * kept) + self.blocks[0].bias[:3]


def loss(model: nn.Module, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
    scores = model(batch["x"])
    value = F.cross_entropy(scores, batch["y"]) + 0.01 * sum(p.square().sum() for p in model.inlet.parameters())
    return value, {"largest": scores.max(dim=1).values.mean()}


def net(**arguments: Any) -> Net:
    torch.manual_seed(0)
    return Net(**arguments).double()


def batch() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(10, 5, generator=generator, dtype=torch.float64)
    return {"x": x, "y": torch.arange(10) % 3, "id": [str(i) for i in range(10)], "scale": torch.tensor(2.0)}


def rows(start: int, stop: int) -> dict[str, Any]:
    whole = batch()
    return {"x": whole["x"][start:stop], "y": whole["y"][start:stop]}


def sharpness_aware(model: nn.Module, **arguments: Any) -> tuple[Tensor, Any]:
    return SharpnessAwareLoss(Sam(name="sam", **arguments)).around(loss)(model, batch())


def reference(model: Net, bounds: list[tuple[int, int]]) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients by moving the weights of copies."""
    value, sums = 0.0, {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for start, stop in bounds:
        share = (stop - start) / 10
        here, there = copy.deepcopy(model), copy.deepcopy(model)
        first, _ = loss(here, rows(start, stop))
        first.backward()
        value += share * first.item()
        norm = sum(p.grad.square().sum() for p in here.parameters() if p.grad is not None).sqrt()
        with torch.no_grad():
            for p, moved in zip(here.parameters(), there.parameters(), strict=True):
                if p.grad is not None:
                    moved += RHO * p.grad / norm
        loss(there, rows(start, stop))[0].backward()
        for name, p in there.named_parameters():
            if p.grad is not None:
                sums[name] += share * p.grad
    return value, sums


@pytest.mark.parametrize(("m", "bounds"), [(None, [(0, 10)]), (4, SHARES), (3, [(0, 3), (3, 6), (6, 8), (8, 10)])])
def test_it_is_its_equations(m: int | None, bounds: list[tuple[int, int]]) -> None:
    model = net()
    expected_value, expected = reference(model, bounds)
    value, metrics = sharpness_aware(model, rho=RHO, m=m)
    (2.5 * value).backward()
    assert value.item() == pytest.approx(expected_value, rel=1e-12)
    assert metrics.keys() == {"largest"}
    for name, p in model.named_parameters():
        if p.grad is None:
            assert not expected[name].any(), name
        else:
            torch.testing.assert_close(p.grad, 2.5 * expected[name], rtol=1e-10, atol=1e-12)
    assert model.unused.grad is None is model.outlet.bias.grad


def test_a_batch_is_cut_into_its_samples() -> None:
    groups = cut(batch(), 4)
    assert [share for _, share in groups] == [0.4, 0.3, 0.3]
    assert [group["id"] for group, _ in groups] == [list("0123"), list("456"), list("789")]
    assert all(group["scale"] == 2.0 for group, _ in groups)
    torch.testing.assert_close(torch.cat([group["x"] for group, _ in groups]), batch()["x"])
    with pytest.raises(RecipeError, match="first dimensions of its tensors are 3, 10"):
        cut({**batch(), "odd": torch.ones(3)}, 4)


def test_weights_and_gradients_stay_and_buffers_move_once() -> None:
    model, plain = net(), net()
    before = copy.deepcopy(model.state_dict())
    loss(plain, batch())
    sharpness_aware(model, rho=RHO)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, plain.state_dict()[name], rtol=0, atol=0)
        assert ("norm.running" in name or "tracked" in name) == (not tensor.equal(before[name]))
    assert all(p.grad is None for p in model.parameters())


def test_both_passes_draw_the_same_random_numbers() -> None:
    model, plain = net(dropout=0.5), net(dropout=0.5)
    torch.manual_seed(3)
    loss(plain, batch())
    after = torch.get_rng_state()
    torch.manual_seed(3)
    sharpness_aware(model, rho=RHO)
    first, second = model.masks
    assert first.equal(second)
    assert first.equal(plain.masks[0])
    assert torch.get_rng_state().equal(after)


def test_a_zero_gradient_moves_nothing() -> None:
    (moved,) = displaced([torch.ones(3)], [torch.zeros(3)], 0.5)
    assert moved.tolist() == [1.0, 1.0, 1.0]
    one, other = displaced([torch.ones(1), torch.ones(2)], [torch.full((1,), 3.0), None], 0.5)
    assert one.tolist() == [1.5]
    assert other.tolist() == [1.0, 1.0]


def test_only_one_group_is_alive_at_a_time() -> None:
    class Kept:
        def __init__(self, tensor: Tensor) -> None:
            self.tensor = tensor

    saved: list[weakref.ref[Kept]] = []
    most = 0

    def pack(tensor: Tensor) -> Kept:
        nonlocal most
        kept = Kept(tensor)
        saved.append(weakref.ref(kept))
        most = max(most, sum(known() is not None for known in saved))
        return kept

    model, peaks = net(), []
    for m in (None, 2):
        saved.clear()
        most = 0
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.tensor):
            value, _ = sharpness_aware(model, rho=RHO, m=m)
        assert value.requires_grad
        assert not any(known() is not None for known in saved)
        peaks.append(most)
    assert peaks[0] == peaks[1] > 10


def test_what_is_computed_again_is_computed_at_the_same_weights() -> None:
    model, again = net(dropout=0.3), net(dropout=0.3)
    checkpoint_activations(again, ActivationCheckpointing())
    for each in (model, again):
        torch.manual_seed(2)
        sharpness_aware(each, rho=RHO, m=4)[0].backward()
    for one, other in zip(model.parameters(), again.parameters(), strict=True):
        if one.grad is not None:
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-12, atol=0)


def test_groups_under_autocast_are_those_of_one_group_each() -> None:
    whole, parts = net().float(), net().float()
    data = {**batch(), "x": batch()["x"].float()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, _ = SharpnessAwareLoss(Sam(name="sam", rho=RHO, m=5)).around(loss)(whole, data)
    value.backward()
    for start, stop in [(0, 5), (5, 10)]:
        half = {"x": data["x"][start:stop], "y": data["y"][start:stop]}
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value, _ = SharpnessAwareLoss(Sam(name="sam", rho=RHO)).around(loss)(parts, half)
        (value / 2).backward()
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        if one.grad is not None:
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-5, atol=1e-7)


def sam(**arguments: Any) -> dict[str, Any]:
    return {"modulators": [{"name": "sam", **arguments}]}


def trained(root: Path, workers: int = 1, **sections: Any) -> RunDirectory:
    directory = make_run_directory(root, tiny_spec(resources={"workers": workers}, **sections))
    train_on(workers, directory)
    return directory


@pytest.mark.parametrize("micro_size", [None, 12])
def test_rho_zero_is_the_plain_training_to_the_bit(tmp_path: Path, micro_size: int | None) -> None:
    sections: dict[str, Any] = {
        "recipe": {"target": "tiny.py:Digits", "args": {"batch_norm": True, "dropout": 0.4}},
        "batch": {"global_size": 48, "micro_size": micro_size},
    }
    plain = trained(tmp_path / "plain", **sections)
    assert_same_weights(plain, trained(tmp_path / "none", **sections, **sam(rho=0.0)))


def test_training_is_that_of_a_hand_written_loop(tmp_path: Path) -> None:
    directory = trained(tmp_path / "run", **sam(rho=0.2, m=16))

    by_hand = tiny_by_hand()
    samples, model, optimizer, order = by_hand.samples, by_hand.model, by_hand.optimizer, by_hand.order
    for step in range(6):
        optimizer.zero_grad()
        ids = order.take(step * 48, 48)
        sums = [torch.zeros_like(p) for p in model.parameters()]
        for part in (ids[:16], ids[16:32], ids[32:]):
            x = torch.stack([samples[i]["image"] for i in part])
            y = torch.tensor([samples[i]["label"] for i in part])
            kept = [p.detach().clone() for p in model.parameters()]
            gradients = torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters()))
            norm = torch.cat([g.reshape(-1) for g in gradients]).norm()
            with torch.no_grad():
                for p, g in zip(model.parameters(), gradients, strict=True):
                    p.add_(0.2 * g / norm)
            gradients = torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters()))
            with torch.no_grad():
                for p, old, total, g in zip(model.parameters(), kept, sums, gradients, strict=True):
                    p.copy_(old)
                    total.add_(g / 3)
        for p, total in zip(model.parameters(), sums, strict=True):
            p.grad = total
        optimizer.step()
    for key, tensor in weights(directory).items():
        torch.testing.assert_close(tensor, model.state_dict()[key], rtol=0, atol=1e-6)


@pytest.mark.distributed
@pytest.mark.parametrize("size", [48, 50])
def test_m_does_not_depend_on_the_number_of_workers(tmp_path: Path, size: int) -> None:
    m = -(-size // 4)
    batch_of: Callable[[int | None], dict[str, Any]] = lambda micro: {"global_size": size, "micro_size": micro}  # noqa: E731
    one = trained(tmp_path / "one", batch=batch_of(None), **sam(rho=0.5, m=m))
    cut_by_the_loader = trained(tmp_path / "micro", batch=batch_of(m), **sam(rho=0.5))
    four = trained(tmp_path / "four", 4, batch=batch_of(None), **sam(rho=0.5, m=m))
    served = trained(tmp_path / "served", 4, batch=batch_of(None), exchange={"name": "coded"}, **sam(rho=0.5, m=m))
    for other in (cut_by_the_loader, four, served):
        assert_same_weights(one, other, atol=1e-6)
    assert largest_difference(one, trained(tmp_path / "whole", batch=batch_of(None), **sam(rho=0.5))) > 1e-4


@pytest.mark.distributed
def test_awkward_models_in_two_processes_are_as_in_one(tmp_path: Path) -> None:
    # Micro-batches of 4 on one worker and on two: the same groups where m divides both.
    jobs = {
        workers: prepare(
            tmp_path / str(workers),
            engine_spec({"name": "ddp"}, workers, AWKWARD, batch={"global_size": 16}, **sam(m=4)),
        )
        for workers in (1, 2)
    }
    for workers, job in jobs.items():
        run_cases(workers, [(job, 8)], sizes=(16,))
    assert largest_difference(jobs[1], jobs[2]) < 1e-6
