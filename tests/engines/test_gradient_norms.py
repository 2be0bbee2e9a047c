"""What an engine measures of a step's groups is what one computes from their gradients, one by one."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from engines.training import AWKWARD, MLP, engine_spec, prepare
from gloo import run_on_ranks
from support import ListTracker, job_here

from orchestrator.core.gradient_stats import GroupNorms, noise_and_signal
from orchestrator.core.run_directory import RunDirectory
from orchestrator.core.values import BatchPlan, DataPosition
from orchestrator.data.loader import MapStyleData
from orchestrator.spec.load import load_recipe_job
from orchestrator.train.loop import _take_step
from orchestrator.train.sources import build_model, read_source

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(600)]

SIZES = (13, 22, 9, 3)
"""On three workers with micro-batches of 4 the last step leaves some of them padding only."""
STILL = {"name": "sgd", "lr": 1e-30}
"""Weights stay where they are, so every step can be computed again from the first ones."""
ZERO = {"name": "deepspeed"}
BY_WORKERS = {
    "ddp": {"name": "ddp"},
    "ddp, several buckets": {"name": "ddp"},
    "fsdp2": {"name": "fsdp2"},
    "fsdp2 by size": {"name": "fsdp2", "wrap_min_parameters": 150, "reshard_after_forward": False},
    "fsdp2, offloaded": {"name": "fsdp2", "cpu_offload": True},
    "accelerate fsdp2": {
        "name": "accelerate",
        "config": {
            "distributed_type": "FSDP",
            "fsdp_config": {
                "fsdp_version": 2,
                "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
                "fsdp_transformer_layer_cls_to_wrap": "Block",
            },
        },
    },
}
BY_MICRO_BATCHES = {
    **{f"zero {stage}": {**ZERO, "zero_stage": stage} for stage in range(4)},
    "zero 2, offloaded": {**ZERO, "zero_stage": 2, "offload_optimizer": "cpu"},
    "zero 3, offloaded in sub-groups": {
        **ZERO,
        "zero_stage": 3,
        "offload_optimizer": "cpu",
        "offload_param": "cpu",
        "config": {"zero_optimization": {"sub_group_size": 100}},
    },
    "accelerate zero 3": {
        "name": "accelerate",
        "config": {"distributed_type": "DEEPSPEED", "deepspeed_config": {"zero_stage": 3}},
    },
}
Measured = list[GroupNorms | None]


def plan_of(size: int, **more: Any) -> BatchPlan:
    return BatchPlan(global_batch_size=size, micro_batch_size=4, **{"sample_statistic": True, **more})


def measure(root: str, more: dict[str, Any]) -> Measured:
    """What a rank is told after each of the steps, every one of which is measured."""
    job = job_here(root, ListTracker())
    told = []
    with closing(job.data):
        for size in SIZES:
            told.append(job.engine.measured())
            _take_step(job, plan_of(size, **more))
        told += [job.engine.measured(), job.engine.measured()]
    assert told[:2] == [None, None]
    return told[2:-1]


def measure_all(cases: list[tuple[str, dict[str, Any]]]) -> list[Measured]:
    return [measure(*case) for case in cases]


def run(world_size: int, directories: list[RunDirectory], more: dict[str, Any] | None = None) -> list[Measured]:
    """Of every job what its ranks measured, which must be the same."""
    cases = [(str(directory.root), more or {}) for directory in directories]
    ranks = run_on_ranks(world_size, measure_all, cases)
    assert all(rank == ranks[0] for rank in ranks)
    return ranks[0]


def groups_of(
    directory: RunDirectory, world_size: int, *, by_workers: bool
) -> Iterator[list[tuple[int, torch.Tensor]]]:
    """For every step the size and the mean gradient of each group that has samples, in float64."""
    spec = load_recipe_job(directory.resolved_spec)
    source = read_source(spec, directory.code)
    model = build_model(spec, source.recipe, directory.code).double()
    parameters = [p for p in model.parameters() if p.requires_grad]
    ranks = [
        MapStyleData(
            source.train_set,
            collate=None,
            seed=spec.train.seed,
            rank=rank,
            world_size=world_size,
            total_samples=10_000,
            position=DataPosition(),
            device=torch.device("cpu"),
        )
        for rank in range(world_size)
    ]
    for size in SIZES:
        groups = []
        for data in ranks:
            parts = []
            for micro in data.step(plan_of(size))[1]:
                batch = {k: x.double() if x.is_floating_point() else x for k, x in micro.batch.items()}
                loss, _ = source.recipe.loss(model, batch)
                gradients = torch.autograd.grad(loss, parameters, materialize_grads=True)
                flat = torch.cat([g.reshape(-1) for g in gradients])
                parts.append((round(micro.weight * size), flat))
            parts = [(n, g) for n, g in parts if n]
            if by_workers and parts:
                total = sum(n for n, _ in parts)
                parts = [(total, sum(n * g for n, g in parts) / total)]
            groups += parts
        yield groups


def expected_norms(groups: list[tuple[int, torch.Tensor]]) -> GroupNorms:
    num_samples = sum(n for n, _ in groups)
    mean = sum(n * g for n, g in groups) / num_samples
    return GroupNorms(
        sum_weighted_sq=sum(n * float(g.square().sum()) for n, g in groups),
        norm_sq=float(mean.square().sum()),
        num_groups=len(groups),
        num_samples=num_samples,
        group_sizes=tuple(n for n, _ in groups),
        inner_products=tuple(float(g @ mean) for _, g in groups),
    )


def compare(measured: Measured, directory: RunDirectory, world_size: int, rel: float = 1e-5, **how: bool) -> None:
    for got, groups in zip(measured, groups_of(directory, world_size, **how), strict=False):
        expected = expected_norms(groups)
        assert got is not None
        assert (got.num_groups, got.num_samples) == (expected.num_groups, expected.num_samples)
        assert got.sum_weighted_sq == pytest.approx(expected.sum_weighted_sq, rel=rel)
        assert got.norm_sq == pytest.approx(expected.norm_sq, rel=rel)
        if got.num_groups > 1:
            assert noise_and_signal(got)[0] == pytest.approx(noise_and_signal(expected)[0], rel=rel)
        if got.inner_products is not None:
            assert got.group_sizes == expected.group_sizes
            # Of their sum's size: one of them may be close to zero.
            assert got.inner_products == pytest.approx(expected.inner_products, rel=rel, abs=rel * got.norm_sq)


def jobs(tmp_path: Path, world_size: int, engines: dict[str, Any], recipe: dict[str, Any] = MLP, **sections: Any):
    made = {}
    for title, engine in engines.items():
        exchange = {"exchange": {"name": "all_reduce", "bucket_mib": 0.001}} if "several" in title else {}
        spec = engine_spec(engine, world_size, recipe, optimizer=STILL, **exchange, **sections)
        made[title] = prepare(tmp_path / title, spec)
    return made


@pytest.mark.parametrize("world_size", [2, 3])
def test_groups_are_workers_where_their_own_gradients_are_seen(tmp_path: Path, world_size: int) -> None:
    made = jobs(tmp_path, world_size, BY_WORKERS)
    for measured, directory in zip(run(world_size, list(made.values())), made.values(), strict=True):
        compare(measured, directory, world_size, by_workers=True)


@pytest.mark.parametrize("world_size", [2, 3])
def test_groups_are_micro_batches_under_deepspeed(tmp_path: Path, world_size: int) -> None:
    made = jobs(tmp_path, world_size, BY_MICRO_BATCHES)
    for measured, directory in zip(run(world_size, list(made.values())), made.values(), strict=True):
        compare(measured, directory, world_size, by_workers=False)


def test_groups_are_micro_batches_on_one_worker(tmp_path: Path) -> None:
    made = jobs(tmp_path, 1, BY_WORKERS | BY_MICRO_BATCHES)
    for measured, directory in zip(run(1, list(made.values())), made.values(), strict=True):
        compare(measured, directory, 1, by_workers=False)


def test_tied_frozen_and_unused_parameters(tmp_path: Path) -> None:
    # Accelerate's FSDP2 gives a tensor that is tied across its units two owners, which torch refuses.
    engines = {t: e for t, e in (BY_WORKERS | BY_MICRO_BATCHES).items() if t != "accelerate fsdp2"}
    made = jobs(tmp_path, 2, engines, AWKWARD)
    for (title, directory), measured in zip(made.items(), run(2, list(made.values())), strict=True):
        compare(measured, directory, 2, by_workers=title in BY_WORKERS)


def test_replica_groups(tmp_path: Path) -> None:
    made = jobs(tmp_path, 4, {"hybrid": {"name": "fsdp2", "mesh": {"replicate": 2}}})
    (measured,) = run(4, list(made.values()))
    compare(measured, made["hybrid"], 4, by_workers=True)
    # A group of one worker sums nothing over itself, only over the others.
    made = jobs(tmp_path, 2, {"replicas": {"name": "fsdp2", "mesh": {"replicate": 2}}})
    (measured,) = run(2, list(made.values()))
    compare(measured, made["replicas"], 2, by_workers=False)


@pytest.mark.parametrize("world_size", [1, 2])
def test_inner_products(tmp_path: Path, world_size: int) -> None:
    made = jobs(tmp_path, world_size, {t: BY_WORKERS[t] for t in ("ddp", "ddp, several buckets")})
    for measured, directory in zip(
        run(world_size, list(made.values()), {"inner_products": True}), made.values(), strict=True
    ):
        compare(measured, directory, world_size, by_workers=world_size > 1)
        assert all(norms is not None and norms.inner_products is not None for norms in measured)


@pytest.mark.parametrize("world_size", [1, 2])
def test_second_derivatives_are_no_part_of_the_gradient(tmp_path: Path, world_size: int) -> None:
    still = {"name": "adahessian", "lr": 1e-30}
    directory = prepare(tmp_path / "job", engine_spec({"name": "ddp"}, world_size, optimizer=still))
    (measured,) = run(world_size, [directory])
    compare(measured, directory, world_size, by_workers=world_size > 1)


def test_a_loss_scale_is_taken_out(tmp_path: Path) -> None:
    engines = {"ddp": {"name": "ddp"}, "fsdp2": {"name": "fsdp2"}, **BY_MICRO_BATCHES}
    made = jobs(tmp_path, 2, engines, train={"precision": "fp16"})
    for (title, directory), measured in zip(made.items(), run(2, list(made.values())), strict=True):
        compare(measured, directory, 2, rel=0.02, by_workers=title in BY_WORKERS)


def measure_overflow(root: str) -> tuple[Measured, list[float]]:
    """Measure every step of a training in whose second one a gradient is beyond fp16."""
    tracker = ListTracker()
    job = job_here(root, tracker)
    told = []
    with closing(job.data):
        for _ in range(4):
            told.append(job.engine.measured())
            _take_step(job, plan_of(13))
        told.append(job.engine.measured())
        job.recorder.flush(always=True)
    return told[2:], [line["loss_scale"] for line in tracker.lines]


def measure_overflows(roots: list[str]) -> list[tuple[Measured, list[float]]]:
    return [measure_overflow(root) for root in roots]


def test_a_step_that_a_loss_scale_skips_says_nothing(tmp_path: Path) -> None:
    recipe = {"target": "odd.py:Odd", "args": {"overflow_at": 4}}
    engines = {"ddp": {"name": "ddp"}, "fsdp2": {"name": "fsdp2"}, **BY_MICRO_BATCHES}
    made = jobs(tmp_path, 2, engines, recipe, train={"precision": "fp16"})
    ranks = run_on_ranks(2, measure_overflows, [str(directory.root) for directory in made.values()])
    assert ranks[0] == ranks[1]
    for measured, _ in ranks[0]:
        assert [norms is None for norms in measured] == [False, True, False]
    assert all(scales[1] < scales[0] for _, scales in ranks[0])  # the second step was skipped
