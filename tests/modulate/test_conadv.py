"""Samples that are attacked ahead: against a loop written by hand, beside the step or before it, over resumes."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from support import (
    ListTracker,
    assert_same_weights,
    job_here,
    make_run_directory,
    tiny_by_hand,
    tiny_spec,
    train_here,
    train_on,
    weights,
)
from torch import nn
from torch.nn import functional as F

from orchestrator.core.errors import RecipeError
from orchestrator.core.parts import DataParts
from orchestrator.core.run_directory import RunDirectory
from orchestrator.core.staleness import Staleness
from orchestrator.core.state_naming import OPTIMIZER
from orchestrator.core.values import BatchPlan, DataPosition
from orchestrator.data.micro_batch import LoadedMicroBatch
from orchestrator.launch.memory.step import older_state
from orchestrator.modulate.data.conadv import ConcurrentAdversarialLoss
from orchestrator.modulate.data.look_ahead import LookAhead
from orchestrator.spec.methods.loss_modulators import Conadv
from orchestrator.train.loop import _stats, _take_step

EPSILON = 0.1
PLAN = BatchPlan(global_batch_size=4, micro_batch_size=2)
NORMS = {"target": "tiny.py:Digits", "args": {"batch_norm": True, "dropout": 0.3}}


def conadv(**arguments: Any) -> dict[str, Any]:
    return {"modulators": [{"name": "conadv", "epsilon": EPSILON, **arguments}]}


def trained(root: Path, workers: int = 1, **sections: Any) -> RunDirectory:
    directory = make_run_directory(root, tiny_spec(resources={"workers": workers}, **sections))
    train_on(workers, directory)
    return directory


@pytest.mark.parametrize("staleness", [1, 3])
def test_training_is_that_of_a_hand_written_loop(tmp_path: Path, staleness: int) -> None:
    # 288 samples: nothing is left to read ahead in the last steps.
    length = {"train": {"samples": 288}}
    directory = trained(tmp_path / "run", **length, **conadv(staleness=staleness, statistics="shared", weight=0.3))

    by_hand = tiny_by_hand()
    samples, model, optimizer, order = by_hand.samples, by_hand.model, by_hand.optimizer, by_hand.order
    history: list[dict[str, torch.Tensor]] = []
    for step in range(6):
        history.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        older = by_hand.recipe.build_model()
        older.load_state_dict(history[max(0, step - staleness)])
        ids = order.take(step * 48, 48)
        x = torch.stack([samples[i]["image"] for i in ids])
        y = torch.tensor([samples[i]["label"] for i in ids])
        x.requires_grad_()
        (slope,) = torch.autograd.grad(F.cross_entropy(older(x), y), x)
        changed = x.detach() + EPSILON * slope.sign()
        optimizer.zero_grad()
        (0.7 * F.cross_entropy(model(x.detach()), y) + 0.3 * F.cross_entropy(model(changed), y)).backward()
        optimizer.step()
    for key, tensor in weights(directory).items():
        torch.testing.assert_close(tensor, model.state_dict()[key], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("staleness", "precision"), [(1, "fp32"), (3, "fp32"), (1, "bf16")])
def test_beside_the_step_or_before_it_is_the_same_to_the_bit(tmp_path: Path, staleness: int, precision: str) -> None:
    sections: dict[str, Any] = {
        "recipe": NORMS,
        "batch": {"global_size": 48, "micro_size": 16},
        "train": {"steps": 6, "precision": precision},
    }
    jobs = [
        trained(tmp_path / str(concurrent), **sections, **conadv(staleness=staleness, concurrent=concurrent))
        for concurrent in (True, False)
    ]
    assert_same_weights(*jobs)


@pytest.mark.parametrize("step", [2, 4, 6, 8])
def test_a_resume_makes_the_same_samples_again(tmp_path: Path, step: int) -> None:
    sections: dict[str, Any] = {
        "recipe": NORMS,
        "train": {"steps": 5},
        "then": [{"train": {"samples": 200}, "batch": {"global_size": 40}}],
        "checkpoint": {"every": 2, "keep": 10},
        **conadv(staleness=3, epsilon=0.3),
    }
    whole = make_run_directory(tmp_path / "whole", tiny_spec(**sections))
    _, lines = train_here(str(whole.root))
    assert [line["adversarial_staleness"] for line in lines] == [0, 1, 2, 3, 3, 0, 1, 2, 3, 3]
    broken = make_run_directory(tmp_path / "broken", tiny_spec(**sections))
    broken.checkpoints.mkdir()
    (whole.checkpoints / f"step_{step}").rename(broken.checkpoints / f"step_{step}")
    _, resumed = train_here(str(broken.root))
    assert [line["adversarial_staleness"] for line in resumed] == [0, 1, 2, 3, 3, 0, 1, 2, 3, 3][step:]
    assert_same_weights(whole, broken)


@pytest.mark.distributed
def test_two_workers_are_as_one(tmp_path: Path) -> None:
    sections = {"batch": {"global_size": 50}, **conadv(staleness=2, statistics="shared")}
    one = trained(tmp_path / "one", **sections)
    assert_same_weights(one, trained(tmp_path / "two", 2, **sections), atol=1e-6)


def test_older_weights_are_in_checkpoints_as_the_plan_counts_them(tmp_path: Path) -> None:
    spec = tiny_spec(**conadv(staleness=3, statistics="shared"))
    job = job_here(str(make_run_directory(tmp_path / "run", spec).root), ListTracker())
    _take_step(job, job.controller.plan(_stats(job)))
    names = [name for name in job.engine.pieces() if name.startswith(f"{OPTIMIZER}0.weight.")]
    assert len(names) == older_state(spec) + 1  # and the momentum
    job.data.close()


class Numbers:
    """Satisfies ``TrainData``: each batch is the number of its first sample."""

    def __init__(self, start: int = 0) -> None:
        self.position = DataPosition(samples=start)
        self.is_closed = False

    def step(self, plan: BatchPlan) -> tuple[int, Iterator[LoadedMicroBatch]]:
        return plan.global_batch_size, self._serve(plan)

    def _serve(self, plan: BatchPlan) -> Iterator[LoadedMicroBatch]:
        first = self.position.samples
        for offset in range(0, plan.global_batch_size, 2):
            yield LoadedMicroBatch(batch=first + offset, weight=0.5, is_last=offset == 2)
        self.position = DataPosition(samples=first + plan.global_batch_size)

    def close(self) -> None:
        self.is_closed = True


def look_ahead(make: Any, data: Numbers, **arguments: Any) -> LookAhead:
    arguments = {
        "first_step": 0,
        "step": 0,
        "total_samples": 20,
        "concurrent": True,
        "keep": lambda v: None,
    } | arguments
    return LookAhead(data, make, **arguments)


def test_every_step_is_served_once_and_the_position_is_its_own() -> None:
    made, kept = [], []

    def make(batches: Sequence[int], version: int) -> list[str]:
        made.append((list(batches), version))
        return [f"{batch} at {version}" for batch in batches]

    inner = Numbers()
    data = look_ahead(make, inner, distance=2, keep=kept.append)
    served, positions, ages = [], [data.position.samples], []
    for _ in range(5):
        num_samples, micro_batches = data.step(PLAN)
        assert num_samples == 4
        served += [(micro.batch, micro.is_last) for micro in micro_batches]
        positions.append(data.position.samples)
        ages.append(data.staleness)
    assert [batch for batch, _ in served[::2]] == ["0 at 0", "4 at 0", "8 at 0", "12 at 1", "16 at 2"]
    assert [is_last for _, is_last in served] == [False, True] * 5
    assert positions == [0, 4, 8, 12, 16, 20]
    assert ages == [0, 1, 2, 2, 2]
    assert kept == [0, 0, 1, 2, 3, 4]
    assert made[0] == ([0, 2], 0)
    with pytest.raises(ValueError, match="All 20 samples"):
        data.step(PLAN)
    data.close()
    assert inner.is_closed


def test_a_resumed_one_makes_what_was_made_before() -> None:
    made: list[tuple[list[int], int]] = []

    def make(batches: Sequence[int], version: int) -> list[int]:
        made.append((list(batches), version))
        return list(batches)

    data = look_ahead(make, Numbers(start=12), distance=2, step=13, first_step=10, concurrent=False)
    for _ in range(2):
        list(data.step(PLAN)[1])
    data.close()
    assert made == [([12, 14], 11), ([16, 18], 12)]  # nothing is left for version 13
    assert data.position.samples == 20


def test_work_ahead_goes_on_while_a_step_is_computed() -> None:
    begun, may_end = threading.Event(), threading.Event()

    def make(batches: Sequence[int], version: int) -> list[int]:
        if threading.current_thread() is not threading.main_thread():
            begun.set()
            assert may_end.wait(60)
        return list(batches)

    data = look_ahead(make, Numbers(), distance=1)
    _, micro_batches = data.step(PLAN)
    assert [micro.batch for micro in micro_batches] == [0, 2]  # while the second step's are being made
    assert begun.wait(60)
    may_end.set()
    assert [micro.batch for micro in data.step(PLAN)[1]] == [4, 6]
    data.close()


def test_what_fails_ahead_is_told_when_it_is_due() -> None:
    def make(batches: Sequence[int], version: int) -> list[int]:
        if batches[0] == 8:
            raise RecipeError("the digits are blurred")
        return list(batches)

    data = look_ahead(make, Numbers(), distance=1)
    for _ in range(2):
        list(data.step(PLAN)[1])
    with pytest.raises(RecipeError, match="blurred"):
        data.step(PLAN)
    data.close()


def attacked(model: nn.Module, loss: Any) -> None:
    """Prime the attack on a model."""
    modulator = ConcurrentAdversarialLoss(Conadv(name="conadv", epsilon=EPSILON))
    modulator.attach(torch.optim.SGD(model.parameters(), lr=0.1), Staleness(), None)

    class Ones(Numbers):
        def _serve(self, plan: BatchPlan) -> Iterator[LoadedMicroBatch]:
            for micro in super()._serve(plan):
                micro.batch = torch.ones(2, 3)
                yield micro

    parts = DataParts(
        model=model,
        loss=loss,
        forward=contextlib.nullcontext,
        device=torch.device("cpu"),
        first_step=0,
        step=0,
        total_samples=20,
    )
    data = modulator.over(Ones(), parts)
    try:
        _, micro_batches = data.step(PLAN)
        assert next(micro_batches).batch.changed.shape == (2, 3)
    finally:
        data.close()


def test_what_would_race_is_refused() -> None:
    attacked(nn.Linear(3, 1), lambda model, batch: (model(batch).sum(), {}))
    with pytest.raises(RecipeError, match="draws random numbers even where"):
        attacked(nn.Linear(3, 1), lambda model, batch: ((model(batch) * torch.rand(())).sum(), {}))
    with pytest.raises(RecipeError, match="SyncBatchNorm would wait"):
        attacked(nn.Sequential(nn.Linear(3, 1), nn.SyncBatchNorm(1)), lambda model, batch: (model(batch).sum(), {}))
