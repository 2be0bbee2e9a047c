"""Weight standardization against its equations in NumPy, which layers it takes, and what is left in a job's weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from support import make_run_directory, tiny_spec, train_here, weights
from torch import Tensor, nn

from orchestrator.core.errors import RecipeError
from orchestrator.modulate.model.weight_standardization import StandardizedConvolutions, standardized
from orchestrator.spec.methods.model_modulators import WeightStandardization


def standardizing(model: nn.Module, *modules: str) -> nn.Module:
    config = WeightStandardization(name="weight_standardization", modules=modules or None)
    return StandardizedConvolutions(config).change(model)


def reference(weight: Tensor) -> np.ndarray:
    """Filter by filter, from the equations."""
    filters = weight.detach().numpy().astype(np.float64)
    return np.stack([(v - v.mean()) / np.sqrt(v.var(ddof=1) + 1e-5) for v in filters])


@pytest.mark.parametrize("shape", [(4, 3, 5), (6, 2, 3, 3), (2, 1, 1, 2), (3, 2, 2, 2, 2)], ids=str)
def test_it_is_its_equations(shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3 + 1
    np.testing.assert_allclose(standardized(weight).numpy(), reference(weight), atol=1e-12)
    assert torch.autograd.gradcheck(standardized, weight.requires_grad_())


def test_a_filter_of_equal_weights_is_zero() -> None:
    weight = torch.full((2, 3, 3, 3), 0.25, requires_grad=True)
    found = standardized(weight)
    found.sum().backward()
    assert not found.any()
    assert torch.isfinite(weight.grad).all()


def test_narrow_weights_are_standardized_precisely() -> None:
    weight = (torch.randn(4, 64, generator=torch.Generator().manual_seed(0)) + 30).bfloat16()
    got = standardized(weight)
    assert got.dtype == torch.bfloat16
    np.testing.assert_allclose(got.float().numpy(), reference(weight.float()), atol=0.02)  # bfloat16 near 2


def test_gradients_leave_mean_and_length_of_a_filter_alone() -> None:
    convolution = standardizing(nn.Conv2d(2, 3, 3).double())
    (convolution(torch.randn(4, 2, 6, 6, dtype=torch.float64)) ** 3).sum().backward()
    gradient, weight = convolution.weight.grad.flatten(1), convolution.weight.detach().flatten(1)
    scale = gradient.abs().max()
    assert gradient.sum(1).abs().max() < 1e-12 * scale
    # But for what the 1e-5 beside the variance keeps.
    assert (gradient * (weight - weight.mean(1, keepdim=True))).sum(1).abs().max() < 1e-3 * scale


@pytest.mark.parametrize(
    "convolution",
    [
        nn.Conv1d(4, 6, 3, stride=2, groups=2),
        nn.Conv2d(4, 6, (3, 2), padding=1, padding_mode="circular", bias=False),
        nn.Conv3d(4, 2, 2, dilation=2),
    ],
    ids=lambda convolution: type(convolution).__name__,
)
def test_a_convolution_computes_with_its_standardized_filters(convolution: nn.Module) -> None:
    inputs = torch.randn(2, 4, *[7] * (convolution.weight.dim() - 2))
    names = [*convolution.state_dict()]
    parameter = convolution.weight
    with torch.no_grad():
        raw = convolution.weight.clone()
        convolution.weight.copy_(torch.from_numpy(reference(raw)))
        expected = convolution(inputs)
        convolution.weight.copy_(raw)
    standardizing(convolution)
    torch.testing.assert_close(convolution(inputs), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(convolution.eval()(inputs), expected, rtol=0, atol=1e-5)
    assert [*convolution.state_dict()] == names
    assert convolution.weight is parameter


class Block(nn.Sequential):
    """A convolution inside."""


def nested() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 2, 3), Block(nn.Conv2d(2, 2, 3), nn.ReLU(), nn.Conv1d(2, 2, 3)), nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("modules", "expected"),
    [
        ((), ["0", "1.0", "1.2"]),
        (("0",), ["0"]),
        (("1",), ["1.0", "1.2"]),
        (("Block",), ["1.0", "1.2"]),
        (("Conv1d", "0"), ["0", "1.2"]),
        (("1.*",), ["1.0", "1.2"]),
    ],
)
def test_which_convolutions_are_taken(modules: tuple[str, ...], expected: list[str]) -> None:
    model = standardizing(nested(), *modules)
    assert [name for name, module in model.named_modules() if "forward" in vars(module)] == expected


class Padded(nn.Conv2d):
    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(nn.functional.pad(inputs, (1, 0, 1, 0)))


@pytest.mark.parametrize(
    ("model", "modules", "message"),
    [
        (nn.Linear(2, 2), (), r"changes convolutions, and Linear has none; its layers are Linear\.$"),
        (nested(), ("Conv3d",), r"no convolution is or lies in 'Conv3d'\. Legal: .* 0, 1\.0, 1\.2\.$"),
        (nested(), ("2",), r"no convolution is or lies in '2'"),
        (nn.Sequential(Padded(1, 2, 3)), (), r"cannot change 0, a Padded with a forward of its own"),
        (nn.Sequential(nn.Conv2d(1, 8, 1)), (), r"cannot change 0, whose filters have one weight each"),
        (nn.Sequential(nn.Conv2d(8, 8, 1, groups=8)), (), r"cannot change 0, whose filters have one weight each"),
    ],
    ids=["no convolution", "no such class", "a linear layer", "own forward", "one weight", "one weight of a group"],
)
def test_what_cannot_be_standardized_is_refused(model: nn.Module, modules: tuple[str, ...], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        standardizing(model, *modules)


def test_a_job_leaves_what_it_has_trained_under_the_recipes_names(tmp_path: Path) -> None:
    """The plain model with `standardized` of the exported filters is the trained one."""
    spec = tiny_spec(recipe={"target": "convolutional.py:Images"}, modulators=[{"name": "weight_standardization"}])
    directory = make_run_directory(tmp_path / "run", spec)
    _, lines = train_here(str(directory.root))
    from convolutional import Images  # the recipe, importable since the run above

    recipe = Images()
    plain = recipe.build_model()
    exported = weights(directory)
    plain.load_state_dict(exported)
    for name in ("0.weight", "3.weight"):
        plain.get_parameter(name).data.copy_(torch.from_numpy(reference(exported[name])))
    _, held_out = recipe.build_datasets()
    batch = torch.utils.data.default_collate(held_out)
    with torch.no_grad():
        loss, _ = recipe.loss(plain.eval(), batch)
    assert float(loss) == pytest.approx(lines[-1]["eval/loss"], abs=1e-5)
