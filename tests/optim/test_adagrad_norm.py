"""AdaGrad-Norm against its equations, against Adagrad where there is one weight, and under every engine."""

from pathlib import Path

import numpy as np
import pytest
import torch
from engines.test_equal import ENGINES, HYBRID
from engines.training import AWKWARD, MLP, engine_spec, largest_difference, prepare, run_cases
from torch import nn

from orchestrator.core.collectives import Collectives
from orchestrator.core.errors import UnsupportedLayoutError
from orchestrator.core.layout import ShardLayout
from orchestrator.optim.adagrad_norm import AdagradNorm

SHAPES = [(7, 5), (3, 2, 4), (1, 1), (11,), ()]


def with_gradients(params: list[nn.Parameter], generator: torch.Generator) -> np.ndarray:
    for parameter in params:
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    return np.concatenate([p.grad.double().reshape(-1).numpy() for p in params])


@pytest.mark.parametrize("initial", [0.0, 3.0])
def test_twenty_steps_match_the_equations(initial: float) -> None:
    generator = torch.Generator().manual_seed(1)
    params = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]
    groups = [{"params": params[:2], "weight_decay": 0.1}, {"params": params[2:]}]
    optimizer = AdagradNorm(groups, lr=0.3, initial_accumulator=initial)
    weights = np.concatenate([p.detach().double().reshape(-1).numpy() for p in params])
    decays = np.where(np.arange(len(weights)) < 59, 0.1, 0.0)
    total = initial**2
    for _ in range(20):
        g = with_gradients(params, generator)
        optimizer.step()
        total += g @ g  # one number for the whole model
        weights = weights - 0.3 * decays * weights - 0.3 * g / (np.sqrt(total) + 1e-10)
        got = np.concatenate([p.detach().double().reshape(-1).numpy() for p in params])
        np.testing.assert_allclose(got, weights, rtol=3e-6, atol=3e-6)
    (kept,) = {float(state["sum"]) for state in optimizer.state.values()}
    assert kept == pytest.approx(total)


def test_with_one_weight_it_is_adagrad() -> None:
    ours, theirs = (nn.Parameter(torch.tensor([0.7])) for _ in range(2))
    optimizers = AdagradNorm([ours], lr=0.1), torch.optim.Adagrad([theirs], lr=0.1)
    for gradient in (0.3, -2.0, 0.01, 5.0):
        for parameter, optimizer in zip((ours, theirs), optimizers, strict=True):
            parameter.grad = torch.tensor([gradient])
            optimizer.step()
        assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)


def test_the_first_step_has_the_length_of_the_rate_and_no_gradient_makes_none() -> None:
    parameter = nn.Parameter(torch.zeros(50))
    optimizer = AdagradNorm([parameter], lr=0.2)
    parameter.grad = torch.zeros(50)
    optimizer.step()
    assert not parameter.any()
    parameter.grad = torch.randn(50, generator=torch.Generator().manual_seed(0)) * 1e-3
    optimizer.step()
    assert float(parameter.detach().norm()) == pytest.approx(0.2, rel=1e-5)


def test_a_tensor_that_joins_late_takes_over_the_number_of_the_others() -> None:
    first, late = (nn.Parameter(torch.zeros(1)) for _ in range(2))
    optimizer = AdagradNorm([first, late], lr=1.0)
    first.grad = torch.tensor([3.0])
    optimizer.step()
    first.grad, late.grad = torch.tensor([0.0]), torch.tensor([4.0])
    optimizer.step()
    assert late.item() == pytest.approx(-4.0 / 5.0)


def test_options_out_of_range_and_flat_partitions_are_refused() -> None:
    with pytest.raises(ValueError, match="initial_accumulator is -1"):
        AdagradNorm([nn.Parameter(torch.ones(3))], initial_accumulator=-1)
    with pytest.raises(ValueError, match="eps is -1"):
        AdagradNorm([nn.Parameter(torch.ones(3))], eps=-1)
    with pytest.raises(UnsupportedLayoutError, match="AdagradNorm steps on all parameters at once"):
        AdagradNorm([nn.Parameter(torch.ones(3))]).attach(ShardLayout(runs={}, collectives=Collectives()))


UNCLIPPED = {"clip_grad_norm": None}
ADMITTED = {title: ENGINES[title] for title in ("ddp", "fsdp2", "zero 0", "accelerate fsdp2")}
OPTIMIZER = {
    "name": "adagrad_norm",
    "lr": 0.5,
    "weight_decay": 0.01,
    "param_groups": [{"match": ["outlet"], "lr_multiplier": 0.5}],
}


@pytest.mark.distributed
@pytest.mark.timeout(600)
def test_engines_take_one_and_the_same_step(tmp_path: Path) -> None:
    alone = {
        awkward: prepare(
            tmp_path / f"alone {awkward}", engine_spec({"name": "ddp"}, 1, recipe, optimizer=OPTIMIZER, train=UNCLIPPED)
        )
        for awkward, recipe in ((False, MLP), (True, AWKWARD))
    }
    run_cases(1, [(directory, 15) for directory in alone.values()])
    for world_size, engines in ((2, ADMITTED), (4, {"hybrid": HYBRID})):
        jobs = {
            (title, awkward): prepare(
                tmp_path / f"{title} {awkward}",
                engine_spec(engine, world_size, AWKWARD if awkward else MLP, optimizer=OPTIMIZER, train=UNCLIPPED),
            )
            for title, engine in engines.items()
            for awkward in (False, True)
            if not (awkward and title in ("accelerate fsdp2", "hybrid"))
        }
        run_cases(world_size, [(directory, 15) for directory in jobs.values()])
        differences = {job: largest_difference(alone[job[1]], directory) for job, directory in jobs.items()}
        assert differences == pytest.approx(dict.fromkeys(jobs, 0.0), abs=1e-6)
