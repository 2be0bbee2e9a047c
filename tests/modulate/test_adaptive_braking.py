"""Adaptive braking against its equations in NumPy, divided in every way, and where it must change nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engines.training import engine_spec, largest_difference, prepare, run_cases
from exchange.delay_cases import trained
from gloo import run_on_ranks
from support import assert_same_weights, make_run_directory, tiny_spec, train_here, train_on
from torch import Tensor, nn

from orchestrator.core import tables
from orchestrator.core.collectives import Collectives
from orchestrator.core.staleness import Staleness
from orchestrator.modulate.gradient.adaptive_braking import Braking, braked, cosines
from orchestrator.spec.check_modulators import AVERAGING
from orchestrator.spec.methods.gradient_modulators import AdaptiveBraking

UPDATES = 30
LR, MOMENTUM, DECAY = 0.05, 0.9, 0.1
SHAPES = ((4, 3), (5,), (1,))


def braking(**arguments: Any) -> Braking:
    return Braking(AdaptiveBraking(name="adaptive_braking", **arguments))


def gradients() -> list[list[np.ndarray]]:
    generator = np.random.default_rng(1)
    return [[generator.normal(size=shape) + 0.5 for shape in SHAPES] for _ in range(UPDATES)]


def parameters() -> list[nn.Parameter]:
    return [nn.Parameter(torch.full(shape, 0.3 * (i + 1), dtype=torch.float64)) for i, shape in enumerate(SHAPES)]


def reference(rho: float, scope: str) -> tuple[list[np.ndarray], list[float]]:
    """Final weights and mean cosines, from the equations."""
    w = [p.detach().numpy().copy() for p in parameters()]
    v = [np.zeros_like(a) for a in w]
    means = []
    for step in gradients():
        g = [raw + DECAY * a for raw, a in zip(step, w, strict=True)]
        scopes = [list(range(len(w)))] if scope == "model" else [[i] for i in range(len(w))]
        found = []
        for members in scopes:
            flat_g, flat_v = (np.concatenate([x[i].ravel() for i in members]) for x in (g, v))
            found.append(flat_g @ flat_v / max(np.linalg.norm(flat_g) * np.linalg.norm(flat_v), 1e-12))
            for i in members:
                g[i] = (1 - rho * found[-1]) * g[i]
        v = [MOMENTUM * b + a for a, b in zip(g, v, strict=True)]
        w = [a - LR * b for a, b in zip(w, v, strict=True)]
        means.append(float(np.mean(found)))
    return w, means


def run(modulator: Braking, own: list[int], collectives: Collectives | None = None) -> tuple[list[Tensor], list[float]]:
    """Train some of the parameters as their only owner."""
    mine = [parameters()[i] for i in own]
    optimizer = torch.optim.SGD(mine, lr=LR, momentum=MOMENTUM, weight_decay=DECAY)
    modulator.attach(optimizer, Staleness(), collectives)
    means = []
    for step in gradients():
        for i, parameter in zip(own, mine, strict=True):
            parameter.grad = torch.tensor(step[i])
        optimizer.step()
        means.append(float(modulator.report()["braking_cosine"]))
    return [p.detach() for p in mine], means


@pytest.mark.parametrize("scope", ["tensor", "model"])
@pytest.mark.parametrize("rho", [0.5, 2.0])
def test_it_is_its_equations(rho: float, scope: str) -> None:
    weights, means = run(braking(rho=rho, scope=scope), [0, 1, 2])
    expected, expected_means = reference(rho, scope)
    for got, want in zip(weights, expected, strict=True):
        np.testing.assert_allclose(got.numpy(), want, rtol=1e-10)
    np.testing.assert_allclose(means, expected_means, rtol=1e-10, atol=1e-12)
    assert means[0] == 0.0  # there is no momentum yet


def as_shard(scope: str) -> tuple[list[Tensor], list[float]]:
    collectives = Collectives()
    return run(braking(scope=scope), [[0, 2], [1]][collectives.rank], collectives)


@pytest.mark.distributed
@pytest.mark.parametrize("scope", ["tensor", "model"])
def test_shards_that_own_some_tensors_each_are_one_model(scope: str) -> None:
    (first, means), (second, same_means) = run_on_ranks(2, as_shard, scope)
    expected, expected_means = reference(2.0, scope)
    for got, want in zip([first[0], second[0], first[1]], expected, strict=True):
        np.testing.assert_allclose(got.numpy(), want, rtol=1e-10)
    assert means == same_means
    np.testing.assert_allclose(means, expected_means, rtol=1e-10, atol=1e-12)


def test_cosines_of_nothing_are_zero() -> None:
    sums = torch.tensor([[6.0, 9.0, 16.0], [0.0, 0.0, 4.0], [0.0, 4.0, 0.0]], dtype=torch.float64)
    assert cosines(sums).tolist() == [0.5, 0.0, 0.0]


def test_the_decay_that_the_optimizer_will_add_is_braked_too() -> None:
    g, w = torch.tensor([1.0, -2.0]), torch.tensor([10.0, 20.0])
    braked(g, w, torch.tensor(0.25), weight_decay=0.1)
    torch.testing.assert_close(g + 0.1 * w, 0.25 * (torch.tensor([1.0, -2.0]) + 0.1 * w))


def test_rho_zero_is_plain_momentum_to_the_bit(tmp_path: Path) -> None:
    plain = make_run_directory(tmp_path / "plain", tiny_spec())
    none = make_run_directory(tmp_path / "none", tiny_spec(modulators=[{"name": "adaptive_braking", "rho": 0.0}]))
    train_on(1, plain)
    _, lines = train_here(str(none.root))
    assert_same_weights(plain, none)
    assert all(-1 <= line["braking_cosine"] <= 1 for line in lines)
    assert lines[0]["braking_cosine"] == 0.0 != lines[-1]["braking_cosine"]


def attached(staleness: Staleness, **arguments: Any) -> Braking:
    modulator = braking(**arguments)
    modulator.attach(torch.optim.SGD(parameters(), lr=1, momentum=0.9), staleness, None)
    return modulator


def test_rho_fades_where_gradients_are_hardly_old() -> None:
    staleness = Staleness(is_asynchronous=True)
    modulator = attached(staleness)
    assert modulator.rho == 0.0
    staleness.mean = 0.125
    assert modulator.rho == 0.5
    staleness.mean = 7.0
    assert modulator.rho == 2.0
    assert attached(Staleness()).rho == 2.0  # asked for in synchronous training: meant
    assert attached(Staleness(is_asynchronous=True), min_delay=0.0).rho == 2.0


def test_it_damps_what_a_delay_makes_diverge() -> None:
    def brake(optimizer: torch.optim.Optimizer, staleness: Staleness) -> None:
        braking(rho=2.0).attach(optimizer, staleness, None)

    plain, damped = trained(None, steps=12), trained(None, steps=12, prepare=brake)
    assert np.abs(plain[-1][4]) > 4 * np.abs(damped[-1][4])  # of curvature 2


ENGINES = {"ddp": {"name": "ddp"}, "fsdp2": {"name": "fsdp2"}, "by size": {"name": "fsdp2", "wrap_min_parameters": 150}}


@pytest.mark.distributed
@pytest.mark.parametrize("scope", ["tensor", "model"])
def test_divided_parameters_are_braked_as_whole_ones(tmp_path: Path, scope: str) -> None:
    sections: dict[str, Any] = {
        "modulators": [{"name": "adaptive_braking", "scope": scope}],
        "optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 0.01},
    }
    alone = prepare(tmp_path / "alone", engine_spec({"name": "ddp"}, 1, **sections))
    run_cases(1, [(alone, 20)])
    jobs = {name: prepare(tmp_path / name, engine_spec(engine, 2, **sections)) for name, engine in ENGINES.items()}
    run_cases(2, [(directory, 20) for directory in jobs.values()])
    for directory in jobs.values():
        assert largest_difference(alone, directory) < 1e-6
    plain = prepare(tmp_path / "plain", engine_spec({"name": "ddp"}, 1, **{**sections, "modulators": []}))
    run_cases(1, [(plain, 20)])
    assert largest_difference(alone, plain) > 1e-3


@pytest.mark.parametrize("config", AVERAGING, ids=lambda kind: kind.__name__)
def test_every_optimizer_that_is_admitted_has_an_average(config: Any) -> None:
    name = config.model_fields["name"].annotation.__args__[0]
    model = nn.Linear(3, 2)
    build = tables.load(tables.OPTIMIZERS, name)
    optimizer = build(config(name=name), model, collectives=Collectives())
    modulator = braking(rho=0.0)  # of a gradient that never changes 2 would leave its opposite
    modulator.attach(optimizer, Staleness(), None)
    for _ in range(3):
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    assert float(modulator.report()["braking_cosine"]) == pytest.approx(1.0)
