"""Ghost batch norm against one plain batch norm for each ghost, and where it must change nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import assert_same_weights, make_run_directory, tiny_spec, train_here, train_on, weights
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from orchestrator.core.errors import RecipeError
from orchestrator.modulate.model.ghost_norm import GhostNormalization, ghost_sizes
from orchestrator.spec.methods.model_modulators import GhostNorm

CHANNELS = 3
WITH_BATCH_NORM = {"target": "tiny.py:Digits", "args": {"batch_norm": True}}


def ghosts_of(model: nn.Module, size: int) -> nn.Module:
    return GhostNormalization(GhostNorm(name="ghost_norm", size=size)).change(model)


def layer(kind: type[nn.Module], **arguments: Any) -> nn.Module:
    """With weights that show a mistake."""
    made = kind(CHANNELS, **arguments).double()
    for scale, parameter in enumerate(made.parameters(), 2):
        nn.init.uniform_(parameter, 0.5, scale, generator=torch.Generator().manual_seed(scale))
    return made


def inputs_of(kind: type[nn.Module], samples: int = 10) -> Tensor:
    space = {nn.BatchNorm1d: (), nn.BatchNorm2d: (4, 2), nn.BatchNorm3d: (2, 3, 2), nn.SyncBatchNorm: (5,)}[kind]
    values = torch.randn(samples, CHANNELS, *space, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return values * 2 + 5


def test_sizes_of_ghosts() -> None:
    assert ghost_sizes(128, 32) == [32] * 4
    assert ghost_sizes(100, 32) == [25] * 4
    assert ghost_sizes(10, 4) == [4, 3, 3]
    assert ghost_sizes(33, 32) == [17, 16]
    assert ghost_sizes(5, 8) == [5]
    assert ghost_sizes(3, 1) == [1, 1, 1]


VARIANTS = {
    "as it is": {},
    "mean of all batches": {"momentum": None},
    "other momentum": {"momentum": 0.3, "eps": 0.1},
    "no weights": {"affine": False},
    "no bias": {"bias": False},
    "no statistics": {"track_running_stats": False},
}


@pytest.mark.parametrize("size", [5, 4, 2])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm])
def test_every_ghost_is_normalized_as_a_batch_by_itself(kind: type[nn.Module], variant: str, size: int) -> None:
    ghost, plain = layer(kind, **VARIANTS[variant]), layer(kind, **VARIANTS[variant])
    ghosts_of(nn.Sequential(ghost), size)
    for _ in range(2):  # running statistics move on from where they are
        whole = inputs_of(kind).requires_grad_()
        parts = whole.detach().clone().requires_grad_()
        expected = torch.cat([plain(part) for part in parts.split(ghost_sizes(10, size))])
        got = ghost(whole)
        coefficients = torch.linspace(-1, 1, got.numel(), dtype=got.dtype).view_as(got)
        (got * coefficients).sum().backward()
        (expected * coefficients).sum().backward()
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(whole.grad, parts.grad, rtol=0, atol=1e-12)
    for mine, theirs in zip(ghost.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=0, atol=1e-11)
    assert [*ghost.state_dict()] == [*plain.state_dict()]
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(ghost.state_dict()[name], value, rtol=0, atol=1e-12)
    torch.testing.assert_close(ghost.eval()(parts), plain.eval()(parts), rtol=0, atol=1e-12)


def test_it_is_its_equations() -> None:
    ghost = layer(nn.BatchNorm1d, momentum=0.2)
    ghosts_of(nn.Sequential(ghost), 5)
    x = inputs_of(nn.BatchNorm1d)
    got = ghost(x).detach().numpy()
    weight, bias = (parameter.detach().numpy() for parameter in ghost.parameters())
    mean, variance = np.zeros(CHANNELS), np.ones(CHANNELS)
    for number, part in enumerate(np.split(x.numpy(), 2)):
        y = weight * (part - part.mean(0)) / np.sqrt(part.var(0) + 1e-5) + bias
        np.testing.assert_allclose(got[5 * number : 5 * number + 5], y, atol=1e-12)
        mean = 0.8 * mean + 0.2 * part.mean(0)
        variance = 0.8 * variance + 0.2 * part.var(0, ddof=1)
    np.testing.assert_allclose(ghost.running_mean.numpy(), mean, atol=1e-12)
    np.testing.assert_allclose(ghost.running_var.numpy(), variance, atol=1e-12)
    assert int(ghost.num_batches_tracked) == 2


@pytest.mark.parametrize("size", [10, 11, 1000])
def test_one_ghost_is_batch_norm_to_the_bit(size: int) -> None:
    ghost, plain = (layer(nn.BatchNorm2d).float() for _ in range(2))
    ghosts_of(nn.Sequential(ghost), size)
    one, other = (inputs_of(nn.BatchNorm2d).float().requires_grad_() for _ in range(2))
    got, expected = ghost(one), plain(other)
    (got**3).sum().backward()
    (expected**3).sum().backward()
    assert torch.equal(got, expected)
    assert torch.equal(one.grad, other.grad)
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(ghost.parameters(), plain.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(ghost.buffers(), plain.buffers(), strict=True))


def test_a_ghost_of_one_value_cannot_be_normalized() -> None:
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        ghosts_of(layer(nn.BatchNorm1d), 1)(inputs_of(nn.BatchNorm1d))
    with pytest.raises(ValueError, match="expected 4D input"):
        ghosts_of(layer(nn.BatchNorm2d), 2)(inputs_of(nn.BatchNorm1d))


def test_narrow_inputs_keep_statistics_of_full_precision() -> None:
    ghost, plain = (layer(nn.BatchNorm2d).float() for _ in range(2))
    ghosts_of(nn.Sequential(ghost), 5)
    x = inputs_of(nn.BatchNorm2d).bfloat16()
    got = ghost(x)
    expected = torch.cat([plain(part) for part in x.split(5)])
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got, expected, rtol=0, atol=0)
    torch.testing.assert_close(ghost.running_mean, plain.running_mean, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [5, 100])
def test_recomputation_does_not_count_a_batch_again(size: int) -> None:
    again, once = layer(nn.BatchNorm2d), layer(nn.BatchNorm2d)
    for model in (again, once):
        ghosts_of(nn.Sequential(model), size)
    one, other = (inputs_of(nn.BatchNorm2d).requires_grad_() for _ in range(2))
    checkpoint(lambda x: again(x) ** 2, one, use_reentrant=False).sum().backward()
    (once(other) ** 2).sum().backward()
    assert torch.equal(one.grad, other.grad)
    assert all(torch.equal(a, b) for a, b in zip(again.buffers(), once.buffers(), strict=True))


def test_torch_counts_a_batch_again() -> None:
    """What the card says of a model without the modulator."""
    plain = layer(nn.BatchNorm2d)
    inputs = inputs_of(nn.BatchNorm2d).requires_grad_()
    checkpoint(lambda x: plain(x) ** 2, inputs, use_reentrant=False).sum().backward()
    assert int(plain.num_batches_tracked) == 2


def test_a_model_without_batch_norm_is_told_what_it_has() -> None:
    with pytest.raises(RecipeError, match=r"ghost_norm changes batch norms, and Sequential has none; its layers are "):
        ghosts_of(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)), 2)


class Activated(nn.BatchNorm2d):
    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs).relu()


def test_a_forward_of_ones_own_is_not_thrown_away() -> None:
    with pytest.raises(RecipeError, match=r"cannot change 1, a Activated with a forward of its own"):
        ghosts_of(nn.Sequential(nn.Conv2d(1, 2, 1), Activated(2)), 2)


def ghost_job(root: Path, *, workers: int = 1, micro_size: int | None = None, modulators: Any = ()) -> Any:
    return make_run_directory(
        root,
        tiny_spec(
            recipe=WITH_BATCH_NORM,
            batch={"global_size": 48, "micro_size": micro_size},
            resources={"workers": workers},
            modulators=list(modulators),
        ),
    )


def test_ghosts_are_what_accumulation_normalizes(tmp_path: Path) -> None:
    ghosts = ghost_job(tmp_path / "ghosts", modulators=[{"name": "ghost_norm", "size": 12}])
    accumulated = ghost_job(tmp_path / "accumulated", micro_size=12)
    whole = ghost_job(tmp_path / "whole")
    for job in (ghosts, accumulated, whole):
        train_here(str(job.root))
    assert_same_weights(ghosts, accumulated, atol=1e-6)
    assert not torch.allclose(weights(ghosts)["0.weight"], weights(whole)["0.weight"], atol=1e-4)


@pytest.mark.distributed
def test_workers_that_do_not_talk_are_ghosts(tmp_path: Path) -> None:
    ghosts = ghost_job(tmp_path / "ghosts", modulators=[{"name": "ghost_norm", "size": 24}])
    workers = ghost_job(tmp_path / "workers", workers=2)
    train_on(1, ghosts)
    train_on(2, workers)
    one, other = weights(ghosts), weights(workers)
    for name in ("0.weight", "1.weight", "1.bias", "4.weight"):
        torch.testing.assert_close(one[name], other[name], rtol=0, atol=1e-6)


def test_weights_load_into_the_plain_model(tmp_path: Path) -> None:
    ghosts = ghost_job(tmp_path / "ghosts", modulators=[{"name": "ghost_norm", "size": 12}])
    train_here(str(ghosts.root))
    from tiny import Digits  # the recipe, importable since the run above

    Digits(batch_norm=True).build_model().load_state_dict(weights(ghosts), strict=True)
