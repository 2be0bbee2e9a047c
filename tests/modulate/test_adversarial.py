"""Attacks against their equations, what they must not touch, two sets of batch norm, and the loss of both."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support import assert_same_weights, make_run_directory, tiny_spec, train_here, train_on
from torch import Tensor, nn
from torch.nn import functional as F

from orchestrator.core.errors import RecipeError
from orchestrator.core.run_directory import RunDirectory
from orchestrator.modulate.loss.adversarial import AdversarialLoss, WithChanged, attack_in_place
from orchestrator.modulate.loss.attack import attack, input_of
from orchestrator.modulate.model.split_norms import auxiliary, split_norms
from orchestrator.spec.methods.loss_modulators import Disadv

EPSILON = 0.1


def config(**arguments: Any) -> Disadv:
    return Disadv(name="disadv", **{"epsilon": EPSILON, **arguments})


class Linear(nn.Module):
    """Logistic regression, whose gradient by its input is known."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[2.0, -1.0, 0.5]], dtype=torch.float64))


def logistic(model: nn.Module, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
    scores = batch["x"] @ model.weight[0]
    return F.softplus(-batch["sign"] * scores).mean(), {}


def logistic_batch() -> dict[str, Tensor]:
    x = torch.tensor([[0.05, 0.5, 0.9], [0.3, 0.95, 0.0]], dtype=torch.float64)
    return {"id": torch.arange(2), "x": x, "sign": torch.tensor([1.0, -1.0], dtype=torch.float64)}


@pytest.mark.parametrize(
    ("arguments", "step", "clip"),
    [
        ({}, EPSILON, None),
        ({"clip": (0.0, 1.0)}, EPSILON, (0.0, 1.0)),
        ({"steps": 4}, 2.5 * EPSILON / 4, None),
        ({"steps": 3, "step_size": 0.02, "clip": (0.0, 1.0)}, 0.02, (0.0, 1.0)),
    ],
)
def test_an_attack_is_its_equations(arguments: dict[str, Any], step: float, clip: tuple[float, float] | None) -> None:
    batch, w = logistic_batch(), np.array([2.0, -1.0, 0.5])
    x = batch["x"].numpy()
    sign = batch["sign"].numpy()[:, None]
    expected = x.copy()
    for _ in range(arguments.get("steps", 1)):
        slope = -sign * w / (1 + np.exp(sign * (expected @ w)[:, None]))
        expected = x + np.clip(expected + step * np.sign(slope) - x, -EPSILON, EPSILON)
        if clip is not None:
            expected = np.clip(expected, *clip)
    model = Linear()
    found = attack(model, logistic, batch, config(**arguments))
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-12)
    assert model.weight.grad is None
    assert batch["x"].equal(logistic_batch()["x"])
    assert not batch["x"].requires_grad


def test_the_input_is_found_or_told_to_be_missing() -> None:
    batch = logistic_batch()
    assert input_of(batch, None) is batch["x"]
    assert input_of(batch, "sign") is batch["sign"]
    assert input_of((batch["id"], batch["x"]), 1) is batch["x"]
    cases: list[tuple[Any, str | int | None, str]] = [
        ({"pixels": torch.ones(2, dtype=torch.uint8)}, None, "no tensor of floating-point numbers"),
        (batch, "id", r"input: 'id' must name .* has a torch.int64 tensor"),
        (batch, "image", r"input: 'image' must name .* has NoneType"),
        (batch, 0, r"input: 0 must name"),
        ((batch["x"],), 3, r"input: 3 must name"),
    ]
    for wrong, key, message in cases:
        with pytest.raises(RecipeError, match=message):
            input_of(wrong, key)
    with pytest.raises(RecipeError, match="does not depend on the input"):
        attack(Linear(), lambda model, b: (model.weight.sum() + 0 * b["sign"].sum(), {}), batch, config())


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inlet = nn.Linear(4, 6)
        self.norm = nn.BatchNorm1d(6)
        self.drop = nn.Dropout(0.5)
        self.outlet = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.outlet(self.drop(torch.relu(self.norm(self.inlet(x)))))


def net() -> Net:
    torch.manual_seed(0)
    model = Net().double()
    with torch.no_grad():
        model.norm.weight.uniform_(0.5, 1.5)
    return model


def loss(model: nn.Module, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
    return F.cross_entropy(model(batch["x"]), batch["y"]), {}


def batch() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {"x": torch.randn(12, 4, generator=generator, dtype=torch.float64), "y": torch.arange(12) % 3}


def test_an_attack_in_place_leaves_the_model_as_it_was() -> None:
    model = net()
    split_norms(model)
    model.outlet.eval()
    before, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    state = torch.get_rng_state()
    changed = attack_in_place(model, loss, batch(), config())
    assert torch.get_rng_state().equal(state)
    assert [m.training for m in model.modules()] == modes
    assert not model.norm.uses_auxiliary
    for name, tensor in model.state_dict().items():
        assert tensor.equal(before[name]), name
    assert all(p.grad is None for p in model.parameters())
    assert all(p.requires_grad for p in model.parameters())
    # By hand: no dropout, statistics of the batch.
    other, x = net(), batch()["x"].requires_grad_()
    other.drop.eval()
    (slope,) = torch.autograd.grad(loss(other, {**batch(), "x": x})[0], x)
    torch.testing.assert_close(changed, x.detach() + EPSILON * slope.sign())


def test_separate_layers_are_the_models_own_names_and_more() -> None:
    model, plain = net(), net()
    split_norms(model)
    more = {f"norm.auxiliary.{name}" for name in plain.norm.state_dict()}
    assert model.state_dict().keys() == plain.state_dict().keys() | more
    assert isinstance(model.norm, nn.BatchNorm1d)
    with torch.no_grad():
        model.norm.auxiliary.weight.mul_(3.0)
    x = batch()["x"]
    assert model.eval()(x).equal(plain.eval()(x))
    with auxiliary(model):
        assert not model(x).equal(plain(x))
    twin = copy.deepcopy(model)
    with auxiliary(twin):
        assert not model.norm.uses_auxiliary
        with torch.no_grad():
            twin.norm.auxiliary.weight.zero_()
        assert model(x).equal(plain(x))
    with pytest.raises(RecipeError, match=r"has no batch norm .* Legal: statistics: shared"):
        split_norms(Linear())


def reference(model: Net, changed: Tensor, weight: float) -> tuple[Net, Net, list[float]]:
    """Two models that differ in their batch norm, with the gradients of both parts of the loss, and these parts."""
    main, other = copy.deepcopy(model), copy.deepcopy(model)
    torch.manual_seed(5)
    parts = [loss(main, batch())[0], loss(other, {**batch(), "x": changed})[0]]
    ((1 - weight) * parts[0]).backward()
    (weight * parts[1]).backward()
    return main, other, [part.item() for part in parts]


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_the_loss_is_of_both_and_every_part_moves_its_own_statistics(weight: float) -> None:
    model = net()
    changed = attack_in_place(copy.deepcopy(model), loss, batch(), config())
    main, other, parts = reference(model, changed, weight)
    modulator = AdversarialLoss(config(weight=weight))
    modulator.change(model)
    torch.manual_seed(5)
    value, metrics = modulator.around(loss)(model, batch())
    value.backward()
    for name, p in main.named_parameters():
        found, twin = model.get_parameter(name).grad, dict(other.named_parameters())[name].grad
        assert found is not None
        if name.startswith("norm."):
            torch.testing.assert_close(found, p.grad, rtol=1e-10, atol=1e-14)
            second = model.get_parameter(f"norm.auxiliary.{name.removeprefix('norm.')}").grad
            torch.testing.assert_close(second, twin, rtol=1e-10, atol=1e-14)
        else:
            torch.testing.assert_close(found, p.grad + twin, rtol=1e-10, atol=1e-14)
    assert model.norm.running_mean.equal(main.norm.running_mean)
    torch.testing.assert_close(model.norm.auxiliary.running_mean, other.norm.running_mean)
    assert model.norm.num_batches_tracked == model.norm.auxiliary.num_batches_tracked == 1
    assert value.item() == pytest.approx((1 - weight) * parts[0] + weight * parts[1], rel=1e-12)
    assert metrics["adversarial_loss"].item() == pytest.approx(parts[1], rel=1e-12)
    given, _ = modulator.around(loss)(net(), WithChanged(batch(), batch()["x"] * 0))
    assert given.isfinite()


def trained(root: Path, workers: int = 1, **sections: Any) -> RunDirectory:
    directory = make_run_directory(root, tiny_spec(resources={"workers": workers}, **sections))
    train_on(workers, directory)
    return directory


def disadv(**arguments: Any) -> dict[str, Any]:
    return {"modulators": [{"name": "disadv", "epsilon": EPSILON, **arguments}]}


def test_epsilon_zero_with_shared_layers_is_plain_training(tmp_path: Path) -> None:
    plain = trained(tmp_path / "plain")
    assert_same_weights(plain, trained(tmp_path / "none", **disadv(epsilon=0.0, statistics="shared")), atol=1e-6)


BATCH_NORM = {"target": "tiny.py:Digits", "args": {"batch_norm": True}}


def test_evaluation_and_export_are_those_of_the_main_layers(tmp_path: Path) -> None:
    directory = make_run_directory(tmp_path / "run", tiny_spec(recipe=BATCH_NORM, **disadv()))
    _, lines = train_here(str(directory.root))
    from tiny import Digits  # the recipe, importable since the run above

    recipe = Digits(batch_norm=True)
    model = recipe.build_model()
    exported = load_file(directory.model_file)
    missing, unexpected = model.load_state_dict(exported, strict=False)
    assert missing == []
    assert set(unexpected) == {f"1.auxiliary.{name}" for name in model[1].state_dict()}
    assert not exported["1.running_mean"].equal(exported["1.auxiliary.running_mean"])
    assert not exported["1.weight"].equal(exported["1.auxiliary.weight"])
    _, held_out = recipe.build_datasets()
    rows = {name: torch.stack([torch.as_tensor(row[name]) for row in held_out]) for name in ("image", "label")}
    with torch.no_grad():
        expected = recipe.evaluate(model.eval(), rows)["loss"]
    assert lines[-1]["eval/loss"] == pytest.approx(float(expected), rel=1e-5)
    assert lines[-1]["adversarial_loss"] > lines[-1]["loss"]


@pytest.mark.distributed
def test_several_workers_train_as_one(tmp_path: Path) -> None:
    sections: dict[str, Any] = {**disadv(statistics="shared", steps=2, clip=[0, 1]), "batch": {"global_size": 50}}
    one = trained(tmp_path / "one", **sections)
    assert_same_weights(one, trained(tmp_path / "two", 2, **sections), atol=1e-6)
    served = trained(tmp_path / "served", 4, exchange={"name": "coded"}, **sections)
    assert_same_weights(one, served, atol=1e-6)
