"""AdaHessian: the products of the Hessian, the estimate over micro-batches and ranks, and the package's own step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_optimizer
import torch
from engines.training import AWKWARD, MLP, SMALL_TEXT, engine_spec, largest_difference, prepare, run_cases
from support import make_run_directory, tiny_spec, train_on, weights
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from orchestrator.core.collectives import Collectives
from orchestrator.core.errors import RecipeError
from orchestrator.core.seeding import seed_everything
from orchestrator.core.tables import OPTIMIZERS, load
from orchestrator.data.sampler import GlobalOrder
from orchestrator.engines.curvature import HessianDiagonal, gradients_and_products

OPTIMIZER = {"name": "adahessian", "lr": 0.05, "weight_decay": 0.01, "hessian_power": 0.5, "eps": 1e-3}
NUM_STEPS = 20


def test_products_are_those_of_the_whole_hessian() -> None:
    generator = torch.Generator().manual_seed(1)
    first, second, unused = (torch.randn(shape, generator=generator).double() for shape in ((3, 2), (4,), (2,)))
    vector = [torch.randn(p.shape, generator=generator).double() for p in (first, second, unused)]

    def function(a: Tensor, b: Tensor, _: Tensor) -> Tensor:
        return (a.sum() * b).tanh().sum() + (a**3).sum() + b.sum()

    hessian = torch.autograd.functional.hessian(function, (first, second, unused))
    parameters = [p.requires_grad_() for p in (first, second, unused)]
    gradients, products = gradients_and_products(function(*parameters), parameters, vector)
    expected = torch.autograd.grad(function(*parameters), parameters, materialize_grads=True)
    for row, (gradient, product) in enumerate(zip(gradients, products, strict=True)):
        torch.testing.assert_close(gradient, expected[row])
        whole = sum((hessian[row][i].flatten(-v.dim()) @ v.flatten() for i, v in enumerate(vector)), torch.zeros(()))
        torch.testing.assert_close(product, whole)
        assert not gradient.requires_grad
        assert not product.requires_grad


def test_a_loss_without_curvature_has_products_of_zero() -> None:
    parameter = torch.ones(3, requires_grad=True)
    gradients, products = gradients_and_products((2 * parameter).sum(), [parameter], [torch.ones(3)])
    assert (gradients[0].tolist(), products[0].tolist()) == ([2.0, 2.0, 2.0], [0.0, 0.0, 0.0])


def parameters_with_gradients(*values: Tensor) -> list[nn.Parameter]:
    parameters = [nn.Parameter(value) for value in values]
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    return parameters


def test_where_parameters_do_not_act_on_each_other_the_estimate_is_the_diagonal() -> None:
    """The limiting case: z H z is the diagonal whatever the signs, and micro-batches add up."""
    (parameter,) = parameters_with_gradients(torch.tensor([1.0, -2.0, 3.0]))
    diagonal = HessianDiagonal([parameter], Collectives())
    seed_everything(1)
    for factors in ([1.0, 2.0, -4.0], [0.0, 5.0, 0.5]):
        parameter.grad.zero_()
        diagonal.begin_step()
        for share in (0.25, 0.75):
            diagonal.backward(share * (torch.tensor(factors) * parameter**2 / 2).sum())
        estimates, num_bytes = diagonal.finish()
        assert estimates[parameter].tolist() == factors
        assert torch.equal(parameter.grad, torch.tensor(factors) * parameter.detach())
        assert num_bytes == 0


def test_every_step_has_signs_of_its_own() -> None:
    (parameter,) = parameters_with_gradients(torch.zeros(64))
    diagonal = HessianDiagonal([parameter], Collectives())
    drawn = []
    for step in (1, 2, 1):
        seed_everything(7, step)
        diagonal.begin_step()
        diagonal.backward((parameter.sum() ** 2) / 2)
        # H is all ones: z H z is z times the sum of z.
        drawn.append(diagonal.finish()[0][parameter])
    assert not torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[2])
    assert set(drawn[0].abs().tolist()) == {float(drawn[0].abs()[0])}
    assert 10 < int((drawn[0] > 0).sum()) < 54


class Once(torch.autograd.Function):
    """A square whose gradient has no derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return 2 * ctx.saved_tensors[0] * gradient


def test_a_model_without_second_derivatives_is_an_error_of_the_recipe() -> None:
    (parameter,) = parameters_with_gradients(torch.ones(3))
    diagonal = HessianDiagonal([parameter], Collectives())
    diagonal.begin_step()
    with pytest.raises(RecipeError, match=r"takes second derivatives .* an operation of the model has none: .*once"):
        diagonal.backward((Once.apply(parameter) ** 2).sum())


def model_and_optimizer() -> tuple[nn.Linear, Any]:
    model = nn.Linear(3, 2)
    config = tiny_spec(optimizer={"name": "adahessian"}).optimizer
    return model, load(OPTIMIZERS, "adahessian")(config, model, collectives=Collectives())


def test_an_estimate_is_for_one_step_and_is_not_kept() -> None:
    model, optimizer = model_and_optimizer()
    model(torch.ones(1, 3)).sum().backward()
    optimizer.take_curvature({p: torch.ones_like(p) for p in model.parameters()})
    optimizer.step()
    for parameter in model.parameters():
        assert set(optimizer.state[parameter]) == {"step", "exp_avg", "exp_hessian_diag_sq"}
    with pytest.raises(RuntimeError, match=r"no estimate for this step: call take_curvature\(\) before step"):
        optimizer.step()


def test_weights_equal_those_of_a_hand_written_loop(tmp_path: Path) -> None:
    arguments = {"lr": 0.05, "betas": [0.8, 0.95], "eps": 1e-3, "hessian_power": 0.7, "weight_decay": 0.1}
    spec = tiny_spec(
        optimizer={"name": "adahessian", **arguments}, train={"steps": 12}, schedule={"name": "polynomial"}
    )
    directory = make_run_directory(tmp_path / "run", spec)
    train_on(1, directory)
    from tiny import Digits  # put on the path by the training

    recipe = Digits()
    rows, _ = recipe.build_datasets()
    seed_everything(0)
    model = recipe.build_model()
    decayed, rest = ([p for p in model.parameters() if (p.dim() > 1) == wanted] for wanted in (True, False))
    optimizer = pytorch_optimizer.AdaHessian(
        [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}],
        lr=0.05,
        betas=(0.8, 0.95),
        eps=1e-3,
        hessian_power=0.7,
        foreach=False,
    )
    order = GlobalOrder(len(rows), 0)
    for step in range(12):
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * (1 - step / 12)
        seed_everything(0, step, 0)
        generator = torch.Generator().manual_seed(int(torch.randint(2**62, (1,))))
        signs = {p: 2 * torch.randint(2, p.shape, generator=generator).float() - 1 for p in model.parameters()}
        batch = [rows[i] for i in order.take(step * 48, 48)]
        images, labels = torch.stack([row["image"] for row in batch]), torch.tensor([row["label"] for row in batch])
        optimizer.zero_grad()
        gradients = torch.autograd.grad(F.cross_entropy(model(images), labels), list(signs), create_graph=True)
        inner = sum(((g * z).sum() for g, z in zip(gradients, signs.values(), strict=True)), torch.zeros(()))
        products = dict(zip(signs, torch.autograd.grad(inner, list(signs)), strict=True))
        for parameter, gradient in zip(signs, gradients, strict=True):
            parameter.grad = gradient.detach()
        optimizer.step(hessian=[signs[p] * products[p] for p in (*decayed, *rest)])
    for key, tensor in weights(directory).items():
        torch.testing.assert_close(tensor, model.state_dict()[key], rtol=0, atol=1e-6)


@pytest.mark.distributed
@pytest.mark.timeout(600)
@pytest.mark.parametrize("recipe", [MLP, AWKWARD, SMALL_TEXT], ids=["mlp", "awkward", "attention"])
def test_any_number_of_workers_takes_the_same_steps(tmp_path: Path, recipe: dict[str, Any]) -> None:
    """Micro-batches of uneven sizes on ranks with uneven shares: the estimate is that of the global batch."""
    alone = prepare(tmp_path / "alone", engine_spec({"name": "ddp"}, 1, recipe, optimizer=OPTIMIZER))
    (lines,) = run_cases(1, [(alone, NUM_STEPS)])
    assert lines[-1]["bytes_sent"] == 0
    for world_size in (2, 3):
        directory = prepare(
            tmp_path / str(world_size), engine_spec({"name": "ddp"}, world_size, recipe, optimizer=OPTIMIZER)
        )
        adamw = prepare(tmp_path / f"adamw {world_size}", engine_spec({"name": "ddp"}, world_size, recipe))
        lines, adamw_lines = run_cases(world_size, [(directory, NUM_STEPS), (adamw, 1)])
        assert largest_difference(alone, directory) <= 1e-6
        # Gradients, and as many products.
        assert lines[-1]["bytes_sent"] == 2 * adamw_lines[-1]["bytes_sent"]


def test_other_ways_to_run_the_model_leave_the_steps_as_they_are(tmp_path: Path) -> None:
    ways: dict[str, dict[str, Any]] = {
        "plain": {},
        "checkpointed": {"activation_checkpointing": {"policy": "full"}},
        "captured": {"compile": "eager"},
    }
    jobs = {
        way: prepare(tmp_path / way, engine_spec({"name": "ddp"}, 1, optimizer=OPTIMIZER, train=train))
        for way, train in ways.items()
    }
    run_cases(1, [(directory, 4) for directory in jobs.values()])
    for way in ("checkpointed", "captured"):
        assert largest_difference(jobs["plain"], jobs[way]) == pytest.approx(0.0, abs=1e-6)
