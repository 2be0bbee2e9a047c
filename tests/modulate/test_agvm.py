"""AGVM: its statistics against gathered gradients, its steps against its equations, and the same on every engine."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engines.training import AWKWARD, engine_spec, largest_difference, prepare
from gloo import run_on_ranks
from modulate.side_by_side import ClippedMomentum, SideBySide
from support import assert_same_weights, tiny_spec, train_here, train_on, weights

from orchestrator.core.gradient_stats import GroupNorms, ModuleNorms, noise_share, split_share
from orchestrator.core.run_directory import RunDirectory
from orchestrator.modulate.gradient.agvm import VarianceModulation, variance_ratios
from orchestrator.spec.check import check
from orchestrator.spec.job import JobSpec
from orchestrator.spec.load import load_recipe_job
from orchestrator.spec.methods.gradient_modulators import Agvm

MODULES = {"in": ["inlet"], "blocks": ["blocks"], "out": ["outlet", "spike"]}
AGVM = {"name": "agvm", "modules": MODULES, "every": 2, "decay": 0.5, "start_step": 1}
BATCH = {"global_size": 16, "micro_size": 4}
STEPS = 10
SGD = {"name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}
ENGINES = {
    "ddp": {"name": "ddp"},
    "fsdp2": {"name": "fsdp2"},
    "fsdp2 by size": {"name": "fsdp2", "wrap_min_parameters": 150},
    **{f"zero {stage}": {"name": "deepspeed", "zero_stage": stage} for stage in range(4)},
}


def spec_of(engine: dict[str, Any], workers: int, agvm: dict[str, Any], **sections: Any) -> JobSpec:
    sections = {"batch": BATCH, "optimizer": SGD, "train": {"steps": STEPS}, **sections}
    return engine_spec(engine, workers, modulators=[agvm] if agvm else [], **sections)


def train_all(roots: list[str]) -> list[list[dict[str, Any]]]:
    return [train_here(root)[1] for root in roots]


def norms_of(groups: np.ndarray) -> GroupNorms:
    """What is measured of equal groups' gradients of one module, [groups, elements], one sample in each."""
    half = len(groups) // 2
    mean = groups.mean(axis=0)
    halves = [part.sum(axis=0) / len(groups) for part in (groups[:half], groups[half:])]
    module = ModuleNorms(
        sum_weighted_sq=float(np.square(groups).sum()),
        norm_sq=float(mean @ mean),
        halves_sq=(float(halves[0] @ halves[0]), float(halves[1] @ halves[1])),
    )
    return GroupNorms(
        sum_weighted_sq=module.sum_weighted_sq,
        norm_sq=module.norm_sq,
        num_groups=len(groups),
        num_samples=len(groups),
        modules=(module,),
    )


def random_groups(num_groups: int) -> np.ndarray:
    return np.random.default_rng(num_groups).normal(size=(num_groups, 50)) + 0.3


@pytest.mark.parametrize("num_groups", [2, 4, 6])
def test_three_norms_give_the_cosine_of_gathered_gradients(num_groups: int) -> None:
    groups = random_groups(num_groups)
    one, other = groups[: num_groups // 2].mean(axis=0), groups[num_groups // 2 :].mean(axis=0)
    cosine = one @ other / (np.linalg.norm(one) * np.linalg.norm(other))
    assert split_share(norms_of(groups), 0) == pytest.approx(1 - cosine, abs=1e-12)


@pytest.mark.parametrize("num_groups", [2, 4, 6])
def test_norms_is_the_average_over_all_balanced_halvings(num_groups: int) -> None:
    groups = random_groups(num_groups)
    products, squares = [], []
    for chosen in itertools.combinations(range(num_groups), num_groups // 2):
        one = groups[list(chosen)].mean(axis=0)
        other = groups[[k for k in range(num_groups) if k not in chosen]].mean(axis=0)
        products.append(one @ other)
        squares.append((one @ one + other @ other) / 2)
    expected = 1 - np.mean(products) / np.mean(squares)
    assert noise_share(norms_of(groups), 0) == pytest.approx(expected, abs=1e-12)


def test_equal_gradients_have_no_noise_and_zero_ones_neither() -> None:
    same = np.ones((4, 50))
    assert split_share(norms_of(same), 0) == pytest.approx(0.0, abs=1e-12)
    assert noise_share(norms_of(same), 0) == pytest.approx(0.0, abs=1e-12)
    assert split_share(norms_of(0 * same), 0) == 0.0
    assert noise_share(norms_of(0 * same), 0) == 0.0


def test_ratios_are_bounded_before_the_root() -> None:
    ratios = variance_ratios([0.8, 0.8, 0.2, 0.001, 8.0], anchor=0, bounds=(0.5, 10.0))
    assert ratios == pytest.approx([1.0, 1.0, 2.0, 10**0.5, 0.5**0.5], rel=1e-5)


def test_equal_modules_keep_their_rate() -> None:
    weights = [torch.nn.Parameter(torch.ones(3)) for _ in range(2)]
    optimizer = torch.optim.SGD([{"params": weights, "lr_multiplier": 0.5}], lr=0.1)
    modulation = VarianceModulation(Agvm(name="agvm"))
    modulation.divide(optimizer, ["a", "b"], {weights[0]: 0, weights[1]: 1})
    of_one = norms_of(random_groups(4))
    both = GroupNorms(sum_weighted_sq=0.0, norm_sq=0.0, num_groups=4, num_samples=4, modules=2 * of_one.modules)
    modulation.take(both)
    assert [group["lr_multiplier"] for group in optimizer.param_groups] == [0.5, 0.5]
    assert [group["params"] for group in optimizer.param_groups] == [[weights[0]], [weights[1]]]


def test_bounds_of_one_change_nothing(tmp_path: Path) -> None:
    jobs = []
    for title, modulators in (("plain", []), ("still", [{**AGVM, "modules": None, "bounds": [1.0, 1.0]}])):
        sections = {"batch": {"global_size": 48, "micro_size": 12}, "modulators": modulators}
        jobs.append(prepare(tmp_path / title, tiny_spec(**sections)))
        train_here(str(jobs[-1].root))
    assert_same_weights(*jobs)


def halvings(groups: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Mean gradients of both halves of all balanced halvings."""
    everyone = range(len(groups))
    pairs = []
    for chosen in itertools.combinations(everyone, len(groups) // 2):
        rest = [k for k in everyone if k not in chosen]
        pairs.append((groups[list(chosen)].mean(0), groups[rest].mean(0)))
    return pairs


def shares_of(gradients: dict[str, torch.Tensor], estimator: str) -> list[float]:
    """1 - cos of each module, from gathered gradients [groups, ...]."""
    shares = []
    for own in MODULES.values():
        members = [g.flatten(1) for name, g in gradients.items() if name.split(".")[0] in own]
        groups = torch.cat(members, dim=1).double()
        if estimator == "split":
            half = len(groups) // 2
            cosine = torch.cosine_similarity(groups[:half].mean(0), groups[half:].mean(0), dim=0)
            shares.append(1 - float(cosine))
        else:
            pairs = halvings(groups)
            top = sum(float(a @ b) for a, b in pairs)
            shares.append(1 - top / sum(float(a @ a + b @ b) / 2 for a, b in pairs))
    return shares


def reference(directory: RunDirectory, estimator: str) -> tuple[dict[str, torch.Tensor], list[list[float]]]:
    """Final weights and the factors of every step, from the equations."""
    job = SideBySide(directory)
    optimizer = ClippedMomentum(job.named, lr=SGD["lr"], momentum=SGD["momentum"], decay=SGD["weight_decay"], bound=0.5)
    module_of = {n: next(i for i, own in enumerate(MODULES.values()) if n.split(".")[0] in own) for n in job.named}
    mu, pending, factors = [1.0] * 3, {}, []
    for step in range(STEPS):
        mu = pending.pop(step, mu)
        gradients = job.next_gradients()
        if step >= 1 and step % 2 == 0:
            shares = shares_of(gradients, estimator)
            ratios = [np.sqrt(np.clip((shares[0] + 1e-6) / (share + 1e-6), 0.5, 10)) for share in shares]
            pending[step + 2] = [0.5 * m + 0.5 * r for m, r in zip(mu, ratios, strict=True)]
        factors.append(mu)
        means = optimizer.clipped({name: g.mean(0) for name, g in gradients.items()})
        optimizer.step(means, {name: mu[module] for name, module in module_of.items()})
    return {name: p.detach() for name, p in job.named.items()}, factors


@pytest.mark.parametrize("estimator", ["norms", "split"])
def test_it_is_its_equations(tmp_path: Path, estimator: str) -> None:
    agvm = {**AGVM, "estimator": estimator}
    directory = prepare(tmp_path / "job", spec_of({"name": "ddp"}, 1, agvm))
    _, lines = train_here(str(directory.root))
    expected, factors = reference(directory, estimator)
    assert [[line[f"agvm/{name}/factor"] for name in MODULES] for line in lines] == [
        pytest.approx(of_step, abs=1e-5) for of_step in factors
    ]
    assert max(abs(m - 1) for m in factors[-1]) > 0.01
    trained = weights(directory)
    assert max(float((trained[name] - w).abs().max()) for name, w in expected.items()) < 1e-6


@pytest.mark.distributed
@pytest.mark.timeout(600)
@pytest.mark.parametrize("estimator", ["norms", "split"])
def test_four_workers_are_one_with_four_micro_batches(tmp_path: Path, estimator: str) -> None:
    agvm = {**AGVM, "estimator": estimator}
    engines = {t: e for t, e in ENGINES.items() if estimator == "norms" or e["name"] != "deepspeed"}
    jobs = {title: prepare(tmp_path / title, spec_of(engine, 4, agvm)) for title, engine in engines.items()}
    run_on_ranks(4, train_all, [str(directory.root) for directory in jobs.values()])
    alone = prepare(tmp_path / "alone", spec_of({"name": "ddp"}, 1, agvm))
    plain = prepare(tmp_path / "plain", spec_of({"name": "ddp"}, 1, {}))
    train_all([str(alone.root), str(plain.root)])
    differences = {title: largest_difference(alone, directory) for title, directory in jobs.items()}
    assert differences == pytest.approx(dict.fromkeys(jobs, 0.0), abs=1e-6)
    assert largest_difference(alone, plain) > 1e-3


@pytest.mark.parametrize(
    ("workers", "exchange"),
    [
        (4, {"scheme": "uncoded"}),
        (4, {"scheme": "fractional", "stragglers": 1}),
        (4, {"scheme": "cyclic", "stragglers": 1}),
        (2, {"scheme": "fractional", "stragglers": 1}),
    ],
)
def test_chunks_of_the_served_topology_are_the_groups(tmp_path: Path, workers: int, exchange: dict[str, Any]) -> None:
    served = spec_of({"name": "ddp"}, workers, AGVM, exchange={"name": "coded", **exchange})
    served = prepare(tmp_path / "served", served)
    train_on(workers, served)
    alone = prepare(tmp_path / "alone", spec_of({"name": "ddp"}, 1, AGVM))
    train_all([str(alone.root)])
    assert largest_difference(alone, served) < 1e-6


@pytest.mark.distributed
@pytest.mark.timeout(600)
def test_halves_of_an_only_worker_under_fsdp2_and_of_an_awkward_model(tmp_path: Path) -> None:
    agvm = {**AGVM, "estimator": "split", "modules": {"in": ["inlet"], "blocks": ["blocks"]}}
    jobs = {}
    for title, engine, workers in (("ddp", "ddp", 1), ("fsdp2", "fsdp2", 1), ("two", "fsdp2", 2), ("four", "ddp", 4)):
        spec = spec_of({"name": engine}, workers, agvm, recipe=AWKWARD)
        jobs[title] = prepare(tmp_path / title, spec)
    train_all([str(jobs["ddp"].root)])
    for workers, title in ((1, "fsdp2"), (2, "two"), (4, "four")):
        run_on_ranks(workers, train_all, [str(jobs[title].root)])
        assert largest_difference(jobs["ddp"], jobs[title]) < 1e-6, title


@pytest.mark.distributed
@pytest.mark.parametrize("engine", ["ddp", "fsdp2"])
def test_halves_are_seen_after_a_controller_has_measured_without_them(tmp_path: Path, engine: str) -> None:
    guards = {"min_measurements": 1000, "max_size": 16}
    controller = {"name": "noise_scale", "statistic": {"every": 1}, "guards": guards}
    agvm = {**AGVM, "estimator": "split", "start_step": 4}
    told = {}
    for title, batch in (("alone", BATCH), ("beside", {**BATCH, "controller": controller})):
        directory = prepare(tmp_path / title, spec_of({"name": engine}, 2, agvm, batch=batch))
        lines = run_on_ranks(2, train_all, [str(directory.root)])[0][0]
        told[title] = [[line[f"agvm/{name}/variance"] for name in MODULES] for line in lines[6:]]
    assert told["beside"] == [pytest.approx(shares, abs=1e-5) for shares in told["alone"]]
    assert min(min(shares) for shares in told["alone"]) > 0.01


def adam_metric_reference(directory: RunDirectory) -> list[list[float]]:
    """1 - cos of the halves in Adam's metric at the first steps, from gathered gradients."""
    job = SideBySide(directory)
    optimizer = torch.optim.AdamW(job.named.values(), lr=0.01, weight_decay=0.0)
    found = []
    for _ in range(4):
        gradients = job.next_gradients()
        moments = {n: optimizer.state[p]["exp_avg_sq"] for n, p in job.named.items() if p in optimizer.state}
        divided = {n: g / (moments[n].sqrt() + 1e-8) if n in moments else g for n, g in gradients.items()}
        found.append(shares_of(divided, "split"))
        for name, p in job.named.items():
            p.grad = gradients[name].mean(0)
        optimizer.step()
    return found


@pytest.mark.distributed
@pytest.mark.parametrize("workers", [1, 4])
def test_adams_metric(tmp_path: Path, workers: int) -> None:
    agvm = {**AGVM, "estimator": "split", "preconditioned": True, "every": 1, "start_step": 0, "bounds": [1.0, 1.0]}
    adamw = {"name": "adamw", "lr": 0.01, "weight_decay": 0.0}
    spec = spec_of({"name": "ddp"}, workers, agvm, optimizer=adamw, train={"steps": 6, "clip_grad_norm": None})
    directory = prepare(tmp_path / "job", spec)
    lines = run_on_ranks(workers, train_all, [str(directory.root)])[0][0]
    expected = adam_metric_reference(directory)
    told = [[line[f"agvm/{name}/variance"] for name in MODULES] for line in lines[2:]]
    assert told == [pytest.approx(shares, abs=1e-4) for shares in expected]


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"agvm": {"estimator": "split"}, "engine": {"name": "deepspeed"}}, "modulators.0.estimator"),
        ({"agvm": {"estimator": "split"}, "workers": 3}, "modulators.0.estimator"),
        ({"agvm": {"preconditioned": True}}, "modulators.0.preconditioned"),
        ({"batch": {"global_size": 16}, "workers": 1}, "batch.micro_size"),
        ({"optimizer": {"name": "prodigy"}}, "optimizer.name"),
        ({"exchange": {"name": "asynchronous"}}, "modulators.0.name"),
        ({"exchange": {"name": "coded", "scheme": "ignore"}}, "modulators.0.name"),
        ({"exchange": {"name": "delayed", "order": "pushes.csv"}}, "modulators.0.name"),
        ({"exchange": {"name": "coded"}, "agvm": {"estimator": "split"}}, "modulators.0.estimator"),
        ({"exchange": {"name": "coded"}, "agvm": {"preconditioned": True}}, "modulators.0.preconditioned"),
    ],
)
def test_what_does_not_go_with_it_is_refused(tmp_path: Path, changes: dict[str, Any], path: str) -> None:
    agvm = {**AGVM, **changes.pop("agvm", {})}
    workers = changes.pop("workers", 4)
    engine = changes.pop("engine", {"name": "ddp"})
    directory = prepare(tmp_path / "job", spec_of(engine, workers, agvm, **changes))
    spec = load_recipe_job(directory.resolved_spec)
    assert path in [problem.path for problem in check(spec, directory.code)]
