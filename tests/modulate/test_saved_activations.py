"""8-bit saved activations: the codes against NumPy, what is kept, what it saves, and how little the gradient moves."""

from __future__ import annotations

import copy
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from engines.training import engine_spec, largest_difference, prepare, run_cases
from sklearn.datasets import load_digits
from support import assert_same_weights, make_run_directory, tiny_spec, train_here, train_on, weights
from torch import Tensor, nn

from orchestrator.modulate.loss.saved_activations import (
    Packed,
    SavedInEightBits,
    Shelf,
    quantize,
    unpack,
)
from orchestrator.spec.methods.loss_modulators import SavedActivations

RECIPE = Path(__file__).parents[2] / "jobs" / "digits" / "recipe.py"


def config(**arguments: Any) -> SavedActivations:
    return SavedActivations(name="saved_activations", **arguments)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_codes_are_their_equations() -> None:
    x = normal(7, 9)
    found = quantize(x, 16, None)
    flat = np.append(x.numpy().ravel(), x.numpy()[-1, -1])  # 63 numbers, one repeated
    groups = flat.reshape(4, 16).astype(np.float64)
    low, high = groups.min(axis=1, keepdims=True), groups.max(axis=1, keepdims=True)
    scale = (high - low) / 255
    exact = (groups - low) / scale
    codes = found.codes.numpy()
    assert codes.dtype == np.uint8
    assert np.abs(codes - exact).max() <= 0.5 + 1e-4
    np.testing.assert_allclose(found.scales.numpy(), scale, rtol=1e-6)
    back = found.numbers(x.shape, x.dtype)
    np.testing.assert_allclose(back.numpy(), (low + codes * scale).ravel()[:63].reshape(7, 9), rtol=0, atol=1e-6)
    assert (codes.min(), codes.max()) == (0, 255)


def test_equal_numbers_and_extremes_stay_exact() -> None:
    x = torch.cat([torch.full((32,), -1.75), torch.tensor([0.0, 3.0] * 16)])
    assert quantize(x, 32, None).numbers(x.shape, x.dtype).equal(x)


def test_rounding_at_random_is_right_on_average() -> None:
    x = normal(1, 64).expand(4000, 64).contiguous()
    found = quantize(x, 64, torch.Generator().manual_seed(5))
    error = found.numbers(x.shape, x.dtype) - x
    scale = float(found.scales[0])
    assert float(error.abs().max()) < scale * 1.001
    # 4,000 errors of at most half a scale's standard deviation: five standard deviations of their mean.
    assert float(error.mean(dim=0).abs().max()) < 5 * scale / 2 / 4000**0.5
    nearest = quantize(x, 64, None).numbers(x.shape, x.dtype) - x
    assert float(nearest.mean(dim=0).abs().max()) > 10 * float(error.mean(dim=0).abs().mean())


def shelf(state: list[Tensor] | None = None, inputs: list[Tensor] | None = None, **arguments: Any) -> Shelf:
    return Shelf(config(min_elements=256, **arguments), state or [], inputs or [])


def test_what_is_no_activation_is_kept_as_it_is() -> None:
    weight, image = nn.Parameter(normal(64, 128)), normal(4, 100)
    own = shelf([weight], [image])
    kept: dict[str, Tensor] = {
        "a weight": weight,
        "its transpose": weight.t(),
        "a cast weight": weight.detach().bfloat16(),
        "a cast transpose": weight.detach().t().bfloat16(),
        "the batch": image.view(4, 4, 25),
        "integers": torch.ones(512, dtype=torch.int64).view(2, 256),
        "small": normal(2, 127),
        "scores of classes": normal(100, 63),
        "expanded": torch.ones(1, 1).expand(64, 64),
    }
    for name, tensor in kept.items():
        assert own.pack(tensor) is tensor, name
    for tensor in (normal(4, 64), normal(64, 128), normal(2, 3, 8, 8).bfloat16()):
        packed = own.pack(tensor)
        assert isinstance(packed, Packed)
        back = unpack(packed)
        assert (back.shape, back.dtype) == (tensor.shape, tensor.dtype)
        torch.testing.assert_close(back, tensor, rtol=1e-2, atol=0.02)


def test_a_tensor_is_kept_once_and_a_changed_one_anew() -> None:
    own, x = shelf(), normal(64, 64)
    first, view, turned = own.pack(x), own.pack(x.view(64, 4, 16)), own.pack(x.t())
    assert isinstance(first, Packed)
    assert isinstance(view, Packed)
    assert isinstance(turned, Packed)
    assert view.kept is first.kept
    torch.testing.assert_close(unpack(turned), unpack(first).t(), rtol=0, atol=0.05)
    x.add_(1.0)
    changed = own.pack(x)
    assert isinstance(changed, Packed)
    assert changed.kept is not first.kept
    # New memory at the old place is another tensor.
    del x
    for seed in range(5):
        another = normal(64, 64, seed=seed)
        torch.testing.assert_close(unpack(own.pack(another)), another, rtol=0, atol=0.05)
        del another


@pytest.fixture(scope="module")
def digits() -> ModuleType:
    name = "digits_recipe_of_saved_activations"
    spec = importlib.util.spec_from_file_location(name, RECIPE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def digits_batch() -> dict[str, Tensor]:
    images, labels = load_digits(return_X_y=True)
    return {"pixels": torch.tensor(images[:256] * (255 / 16)).to(torch.uint8), "label": torch.tensor(labels[:256])}


def gradient(model: nn.Module, loss: Any) -> tuple[Tensor, Tensor]:
    value, _ = loss(model, digits_batch())
    found = torch.autograd.grad(value, list(model.parameters()))
    return value.detach(), torch.cat([g.reshape(-1) for g in found])


@pytest.mark.parametrize("stochastic", [False, True])
def test_the_loss_is_the_same_and_the_gradient_nearly(digits: ModuleType, stochastic: bool) -> None:
    torch.manual_seed(0)
    recipe = digits.Digits(hidden=32)
    model = recipe.build_model()
    state = torch.get_rng_state()
    value, exact = gradient(copy.deepcopy(model), recipe.loss)
    modulated = SavedInEightBits(config(stochastic=stochastic)).around(recipe.loss)
    same, near = gradient(model, modulated)
    assert same.equal(value)
    assert not near.equal(exact)
    cosine = torch.nn.functional.cosine_similarity(near.double(), exact.double(), dim=0)
    assert float(cosine) > 0.999
    assert torch.get_rng_state().equal(state)


def test_a_quarter_of_the_memory_is_kept(digits: ModuleType) -> None:
    recipe = digits.Digits(hidden=32)
    model, batch = recipe.build_model(), digits_batch()
    own = {t.untyped_storage()._cdata for t in [*model.parameters(), *model.buffers(), *batch.values()]}
    plain: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            plain[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda kept: kept):
        value, _ = recipe.loss(model, batch)
    ours: dict[int, int] = {}
    shelf = Shelf(config(), [*model.parameters(), *model.buffers()], batch.values())

    def count_ours(tensor: Tensor) -> Any:
        packed = shelf.pack(tensor)
        if isinstance(packed, Packed):
            ours[id(packed.kept)] = packed.kept.num_bytes
        elif tensor.untyped_storage()._cdata not in own:
            ours[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return packed

    with torch.autograd.graph.saved_tensors_hooks(count_ours, unpack):
        again, _ = recipe.loss(model, batch)
    assert value.requires_grad
    assert again.requires_grad
    ratio = sum(ours.values()) / sum(plain.values())
    print(f"{sum(plain.values())} -> {sum(ours.values())} bytes, {ratio:.3f}")
    assert 0.25 < ratio < 0.28


SAVED = {"name": "saved_activations", "min_elements": 64, "group": 64}
WIDE = {"target": "tiny.py:Digits", "args": {"hidden": 64, "dropout": 0.3}}


def test_random_rounding_repeats_itself_after_a_resume(tmp_path: Path) -> None:
    sections: dict[str, Any] = {
        "recipe": WIDE,
        "modulators": [{**SAVED, "stochastic": True}],
        "checkpoint": {"every": 3},
        "batch": {"global_size": 48, "micro_size": 24},
    }
    whole = make_run_directory(tmp_path / "whole", tiny_spec(**sections))
    train_here(str(whole.root))
    broken = make_run_directory(tmp_path / "broken", tiny_spec(**sections))
    broken.checkpoints.mkdir()
    (whole.checkpoints / "step_3").rename(broken.checkpoints / "step_3")
    train_here(str(broken.root))
    assert_same_weights(whole, broken)
    plain = make_run_directory(tmp_path / "plain", tiny_spec(**{**sections, "modulators": []}))
    train_here(str(plain.root))
    assert 1e-6 < largest_difference(whole, plain) < 1e-2


@pytest.mark.distributed
def test_two_workers_keep_what_one_does(tmp_path: Path) -> None:
    recipe = {"target": "tiny.py:Digits", "args": {"hidden": 64}}
    jobs = {}
    for workers in (1, 2):
        spec = tiny_spec(recipe=recipe, modulators=[SAVED], resources={"workers": workers})
        jobs[workers] = make_run_directory(tmp_path / str(workers), spec)
        train_on(workers, jobs[workers])
    # Every sample's row of 64 is a group, so it does not matter with which others it is computed.
    assert_same_weights(jobs[1], jobs[2], atol=1e-6)


def test_it_goes_with_activation_checkpointing_and_sam(tmp_path: Path) -> None:
    sections: dict[str, Any] = {"batch": {"global_size": 16}, "train": {"activation_checkpointing": {}}}
    modulators = [{**SAVED, "min_elements": 1}, {"name": "sam", "rho": 0.1, "m": 4}]
    directory = prepare(tmp_path / "both", engine_spec({"name": "ddp"}, 1, modulators=modulators, **sections))
    exact = prepare(tmp_path / "exact", engine_spec({"name": "ddp"}, 1, modulators=modulators[1:], **sections))
    lines = run_cases(1, [(directory, 10), (exact, 10)], sizes=(16,))
    assert lines is not None
    for name, tensor in weights(exact).items():
        torch.testing.assert_close(weights(directory)[name], tensor, rtol=0, atol=0.05)
