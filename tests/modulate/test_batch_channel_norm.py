"""Batch-channel normalization against its equations in NumPy, on one process and on several."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gloo import run_on_ranks
from support import assert_same_weights, make_run_directory, tiny_spec, train_on
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from orchestrator.core.collectives import Collectives
from orchestrator.core.errors import RecipeError
from orchestrator.core.padding import UNDER_WAY
from orchestrator.modulate.model.batch_channel_norm import BatchChannelNormalization
from orchestrator.spec.methods.model_modulators import BatchChannelNorm

CHANNELS, GROUPS, RATE = 6, 3, 0.25


def changed(model: nn.Module, **arguments: Any) -> nn.Module:
    config = BatchChannelNorm(name="batch_channel_norm", **{"groups": GROUPS, **arguments})
    return BatchChannelNormalization(config).change(model)


def layer(kind: type[nn.Module] = nn.BatchNorm2d, estimate: float | None = None, **arguments: Any) -> nn.Module:
    """With weights that show a mistake."""
    made = changed(kind(CHANNELS, **arguments).double(), estimate=estimate)
    for scale, parameter in enumerate(made.parameters(), 2):
        nn.init.uniform_(parameter, 0.5, scale, generator=torch.Generator().manual_seed(scale))
    return made


def batch(seed: int, samples: int = 5, kind: type[nn.Module] = nn.BatchNorm2d) -> Tensor:
    space = () if kind is nn.BatchNorm1d else (4, 2)
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(samples, CHANNELS, *space, generator=generator, dtype=torch.float64) * 2 + 3


def by_channel(values: Tensor, x: np.ndarray) -> np.ndarray:
    return values.detach().numpy().reshape(1, -1, *[1] * (x.ndim - 2))


def channel_norm(z: np.ndarray, module: nn.Module) -> np.ndarray:
    """Sample by sample and group by group, from the equations."""
    y, each = np.empty_like(z), CHANNELS // GROUPS
    for sample in range(len(z)):
        for group in range(GROUPS):
            part = z[sample, group * each : (group + 1) * each]
            normal = (part - part.mean()) / np.sqrt(part.var() + 1e-5)
            weight, bias = module.channel_weight.tolist()[group], module.channel_bias.tolist()[group]
            y[sample, group * each : (group + 1) * each] = weight * normal + bias
    return y


@pytest.mark.parametrize("kind", [nn.BatchNorm1d, nn.BatchNorm2d])
def test_a_batch_norm_is_followed_by_a_channel_norm(kind: type[nn.Module]) -> None:
    module = layer(kind)
    x = batch(0, kind=kind).numpy()
    axes = (0, *range(2, x.ndim))
    normal = (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + 1e-5)
    expected = channel_norm(by_channel(module.weight, x) * normal + by_channel(module.bias, x), module)
    np.testing.assert_allclose(module(torch.from_numpy(x)).detach().numpy(), expected, atol=1e-11)
    np.testing.assert_allclose(module.running_mean, 0.1 * x.mean(axes), atol=1e-12)


@pytest.mark.parametrize("kind", [nn.BatchNorm1d, nn.BatchNorm2d])
def test_estimates_follow_the_input_and_are_normalized_by(kind: type[nn.Module]) -> None:
    module = layer(kind, RATE)
    mean, variance = np.zeros(CHANNELS), np.ones(CHANNELS)
    for seed in range(3):
        x = batch(seed, samples=1 + seed, kind=kind).numpy()
        axes = (0, *range(2, x.ndim))
        about_old = ((x - by_channel(torch.from_numpy(mean), x)) ** 2).mean(axes)
        mean = (1 - RATE) * mean + RATE * x.mean(axes)
        variance = (1 - RATE) * variance + RATE * about_old
        deviation = np.sqrt(by_channel(torch.from_numpy(variance), x) + 1e-5)
        z = by_channel(module.weight, x) * (x - by_channel(torch.from_numpy(mean), x)) / deviation
        expected = channel_norm(z + by_channel(module.bias, x), module)
        np.testing.assert_allclose(module(torch.from_numpy(x)).detach().numpy(), expected, atol=1e-11)
        np.testing.assert_allclose(module.running_mean, mean, atol=1e-12)
        np.testing.assert_allclose(module.running_var, variance, atol=1e-12)
    # Evaluation is the same formula, and moves nothing.
    again = module.eval()(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(again, expected, atol=1e-11)
    np.testing.assert_allclose(module.running_mean, mean, atol=0)
    assert int(module.num_batches_tracked) == 3


def test_estimates_are_constants_to_gradients() -> None:
    """The backward while training is that of the evaluation with the same estimates."""
    module = layer(estimate=RATE)
    inputs = batch(0).requires_grad_()
    coefficients = torch.linspace(-1, 1, inputs.numel(), dtype=inputs.dtype).view_as(inputs)
    (module(inputs) * coefficients).sum().backward()
    frozen = batch(0).requires_grad_()
    (module.eval()(frozen) * coefficients).sum().backward()
    assert torch.equal(inputs.grad, frozen.grad)
    assert all(parameter.grad.any() for parameter in module.parameters())


@pytest.mark.parametrize("estimate", [None, RATE])
def test_narrow_inputs_stay_narrow(estimate: float | None) -> None:
    module = layer(estimate=estimate).float()
    wide = layer(estimate=estimate).float()
    got = module(batch(0).bfloat16())
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.float(), wide(batch(0).float()), rtol=0.02, atol=0.05)
    assert module.running_mean.dtype == torch.float32


def test_two_forwards_may_come_before_a_backward() -> None:
    module = layer(estimate=RATE)
    outputs = [module(batch(seed)) for seed in range(2)]
    once = layer(estimate=RATE)
    for seed in range(2):
        once(batch(seed)).sum().backward()
    sum(output.sum() for output in outputs).backward()
    for one, other in zip(module.parameters(), once.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=0, atol=1e-12)


@pytest.mark.parametrize("estimate", [None, RATE])
def test_recomputation_does_not_count_a_batch_again(estimate: float | None) -> None:
    again, once = layer(estimate=estimate), layer(estimate=estimate)
    one, other = (batch(0).requires_grad_() for _ in range(2))
    checkpoint(lambda x: again(x) ** 2, one, use_reentrant=False).sum().backward()
    (once(other) ** 2).sum().backward()
    assert torch.equal(one.grad, other.grad)
    assert all(torch.equal(a, b) for a, b in zip(again.buffers(), once.buffers(), strict=True))


def test_new_entries_stand_beside_the_recipes_own() -> None:
    plain, module = nn.BatchNorm2d(CHANNELS), changed(nn.BatchNorm2d(CHANNELS))
    assert set(module.state_dict()) - set(plain.state_dict()) == {"channel_weight", "channel_bias"}
    assert set(plain.state_dict()) < set(module.state_dict())
    assert module.channel_weight.shape == (GROUPS,)
    missing, unexpected = module.load_state_dict(plain.state_dict(), strict=False)
    assert (set(missing), unexpected) == ({"channel_weight", "channel_bias"}, [])


def test_a_layer_without_weights_has_those_of_its_groups() -> None:
    module = layer(affine=False)
    assert [name for name, _ in module.named_parameters()] == ["channel_weight", "channel_bias"]
    assert module(batch(0)).isfinite().all()


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        (nn.Linear(2, 2), {}, r"batch_channel_norm changes batch norms, and Linear has none"),
        (
            nn.Sequential(nn.BatchNorm2d(12), nn.BatchNorm2d(18)),
            {"groups": 4},
            r"groups = 4 does not divide the 18 channels of 1\. Legal for all batch norms of this model: 1, 2, 3, 6\.$",
        ),
        (
            nn.Sequential(nn.BatchNorm2d(6, track_running_stats=False)),
            {"estimate": 0.1},
            r"estimate needs the running statistics of 0, which keeps none",
        ),
    ],
    ids=["no batch norm", "groups", "no statistics"],
)
def test_what_cannot_be_normalized_is_refused(model: nn.Module, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        changed(model, **arguments)


def estimates_of_ranks() -> tuple[Tensor, Tensor]:
    """Uneven workers, and one that computes padding in the second forward."""
    rank = Collectives().rank
    module = layer(estimate=RATE)
    start, stop = [(0, 3), (3, 4), (4, 5)][rank]
    module(batch(0)[start:stop])
    UNDER_WAY.is_padding = rank == 2
    start, stop = [(0, 3), (3, 5), (0, 1)][rank]
    module(batch(1)[start:stop])
    return module.running_mean, module.running_var


@pytest.mark.distributed
def test_estimates_are_those_of_all_workers() -> None:
    alone = layer(estimate=RATE)
    for seed in range(2):
        alone(batch(seed))
    for mean, variance in run_on_ranks(3, estimates_of_ranks):
        torch.testing.assert_close(mean, alone.running_mean, rtol=0, atol=1e-12)
        torch.testing.assert_close(variance, alone.running_var, rtol=0, atol=1e-12)


def test_micro_batches_of_one_sample_train(tmp_path: Path) -> None:
    """On samples of which batch norm could make nothing: one value for each channel."""
    spec = tiny_spec(
        recipe={"target": "tiny.py:Digits", "args": {"batch_norm": True}},
        batch={"global_size": 16, "micro_size": 1},
        modulators=[{"name": "batch_channel_norm", "groups": 4, "estimate": 0.1}],
    )
    directory = make_run_directory(tmp_path / "run", spec)
    outcome, lines = train_on(1, directory)[0]
    assert outcome == "finished"
    assert lines[-1]["loss"] < lines[0]["loss"]


@pytest.mark.distributed
def test_workers_of_shards_train_as_ranks_do(tmp_path: Path) -> None:
    modulators = [{"name": "weight_standardization"}, {"name": "batch_channel_norm", "groups": 4}]
    jobs = [
        make_run_directory(
            tmp_path / exchange["name"],
            tiny_spec(
                recipe={"target": "convolutional.py:Images"},
                resources={"workers": 2},
                exchange=exchange,
                modulators=modulators,
            ),
        )
        for exchange in ({"name": "all_reduce"}, {"name": "coded", "scheme": "fractional", "stragglers": 0})
    ]
    for job in jobs:
        assert train_on(2, job)[0][0] == "finished"
    assert_same_weights(*jobs, atol=1e-5)
