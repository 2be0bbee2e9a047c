"""Gradients at older weights: exactly those that are asked for, on any number of workers, and again after a resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exchange.delay_cases import DECAY, MOMENTUM, ORDER, RATES, START, UPDATES, gradient, trained
from served.threads import train_served
from support import ListTracker, assert_same_weights, job_here, make_run_directory, tiny_spec, train_on
from torch import nn

from orchestrator.core.collectives import Collectives
from orchestrator.core.run_directory import RunDirectory
from orchestrator.core.served import Publication, RoundRequest
from orchestrator.core.staleness import Staleness
from orchestrator.core.values import StepStats
from orchestrator.exchange.delayed import DelayedExchange
from orchestrator.exchange.read_plan import FixedDelay, Listed
from orchestrator.launch.memory.step import older_state
from orchestrator.spec.methods.asynchronous import Delayed
from orchestrator.spec.push_order import OrderedPush, read_order, write_order
from orchestrator.train.loop import _take_step
from orchestrator.train.worker_model import WorkerModel

STEPS = 24
JOB: dict[str, Any] = {
    "train": {"steps": STEPS},
    "batch": {"global_size": 32, "micro_size": 5},
    "optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 1e-3},
}
RANDOM = {"target": "tiny.py:Digits", "args": {"dropout": 0.2}}


def train(
    root: Path, exchange: dict[str, Any], *, workers: int = 1, order: list[OrderedPush] | None = None, **sections: Any
) -> tuple[RunDirectory, list[dict[str, Any]]]:
    spec = tiny_spec(**{**JOB, "resources": {"workers": workers}, **sections}, exchange=exchange)
    directory = make_run_directory(root, spec)
    if order is not None:
        write_order(directory.code / "order.csv", order)
    return directory, train_on(workers, directory)[0][1]


def reference(reads: list[int]) -> np.ndarray:
    """Momentum SGD with each gradient at the version that is read."""
    w, v = [START], np.zeros(5)
    for update, version in enumerate(reads):
        v = MOMENTUM * v + gradient(w[version], update) + DECAY * w[-1]
        w.append(w[-1] - RATES[update] * v)
    return np.stack(w)


@pytest.mark.parametrize("steps", [0, 1, 7, 40])
def test_a_fixed_delay_is_its_equation(steps: int) -> None:
    reads = [max(0, update - steps) for update in range(UPDATES)]
    np.testing.assert_allclose(trained(None, steps=steps), reference(reads), rtol=1e-12)


def test_an_order_is_followed() -> None:
    reads = [push.read_version for push in ORDER]
    np.testing.assert_allclose(trained(None), reference(reads), rtol=1e-12)


def test_only_the_forward_is_at_older_weights() -> None:
    """y = b a x: the gradient of b has the older a in it, as the forward left it; that of a has the newest b."""
    config = Delayed(name="delayed", steps=2, weights="inconsistent")
    exchange = DelayedExchange(
        config, Collectives(), staleness=Staleness(is_asynchronous=True), compensation=None, plan=FixedDelay(2)
    )
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 2, bias=False)).double()
    a, b = ([layer.weight.detach().numpy().copy()] for layer in model)
    inputs = np.random.default_rng(0).normal(size=(12, 5, 3))
    exchange.attach(list(model.parameters()))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for update, x in enumerate(inputs):
        for half in (x[:2], x[2:]):
            exchange.begin(is_last=half is not x[:2])
            loss = (model(torch.tensor(half)) - 1).square().sum() / 2
            exchange.before_backward()
            loss.backward()
        exchange.finish()
        optimizer.step()
        exchange.clear()
        old = max(0, update - 2)
        error = x @ a[old].T @ b[old].T - 1
        gradient_b = error.T @ (x @ a[old].T)
        gradient_a = (error @ b[-1]).T @ x
        a.append(a[-1] - 0.05 * gradient_a)
        b.append(b[-1] - 0.05 * gradient_b)
        np.testing.assert_allclose(model[0].weight.detach().numpy(), a[-1], rtol=1e-12)
        np.testing.assert_allclose(model[1].weight.detach().numpy(), b[-1], rtol=1e-12)


def test_versions_are_kept_for_as_long_as_they_are_read() -> None:
    plan, held = Listed(ORDER), dict[int, int]()
    for update in range(UPDATES):
        slot = plan.slot(update)
        if slot is not None:
            held[slot] = update
        for push in plan.pushes(update):
            assert held[plan.slot(push.read_version)] == push.read_version
    assert plan.num_slots == plan.num_workers == 3  # no worker has two gradients at one time


@pytest.mark.distributed
def test_without_a_delay_it_is_all_reduce_to_the_bit(tmp_path: Path) -> None:
    for workers in (1, 3):
        plain, _ = train(tmp_path / f"plain_{workers}", {"name": "all_reduce"}, workers=workers, recipe=RANDOM)
        delayed = {"name": "delayed", "steps": 0}
        none, _ = train(tmp_path / f"none_{workers}", delayed, workers=workers, recipe=RANDOM)
        assert_same_weights(plain, none)


@pytest.mark.distributed
@pytest.mark.parametrize("weights", ["consistent", "inconsistent"])
def test_one_and_four_workers_give_the_same_weights(tmp_path: Path, weights: str) -> None:
    exchange = {"name": "delayed", "steps": 4, "weights": weights}
    alone, lines = train(tmp_path / "alone", exchange)
    four, lines_of_four = train(tmp_path / "four", exchange, workers=4)
    assert_same_weights(alone, four, atol=1e-6)
    assert [line["delay"] for line in lines] == [min(step, 4) for step in range(STEPS)]
    assert lines_of_four[-1]["delay_mean"] == pytest.approx(np.mean([min(step, 4) for step in range(STEPS)]))
    plain, _ = train(tmp_path / "plain", {"name": "all_reduce"})
    with pytest.raises(AssertionError):
        assert_same_weights(alone, plain, atol=1e-3)


@pytest.mark.parametrize("compensation", [None, "gap_aware", "dana_zero", "staleness_aware"])
def test_the_order_of_an_asynchronous_job_gives_its_weights_to_the_bit(
    tmp_path: Path, compensation: str | None
) -> None:
    spec = tiny_spec(**JOB, resources={"workers": 4}, exchange={"name": "asynchronous", "compensation": compensation})
    real = make_run_directory(tmp_path / "real" / "tiny", spec)
    train_served(real)
    assert max(push.delay for push in read_order(real.pushes_file)) > 0
    spec = tiny_spec(**JOB, exchange={"name": "delayed", "order": "order.csv", "compensation": compensation})
    again = make_run_directory(tmp_path / "again" / "tiny", spec)
    (again.code / "order.csv").write_bytes(real.pushes_file.read_bytes())
    train_on(1, again)
    assert_same_weights(real, again)


def test_a_chunk_draws_the_random_numbers_of_an_asynchronous_worker(tmp_path: Path) -> None:
    """Threads share torch's generator, so the whole job above has no dropout: here is one gradient."""
    job = {**JOB, "train": {"steps": 8}, "optimizer": {"name": "sgd", "lr": 0.25}, "recipe": RANDOM}
    spec = tiny_spec(**job, exchange={"name": "delayed", "order": "order.csv"})
    directory = make_run_directory(tmp_path / "tiny", spec)
    order = [OrderedPush(0, 0, chunk=6, read_version=0)]
    write_order(directory.code / "order.csv", order)
    training = job_here(str(directory.root), ListTracker())
    before = [p.detach().clone() for p in training.engine.model.parameters()]
    _take_step(training, training.controller.plan(StepStats(step=0, samples=0, loss=None)))

    def nothing(value: Any) -> Any:
        return value

    worker = WorkerModel(
        spec, directory.code, num_shards=1, device=torch.device("cpu"), fetch=nothing, begin_micro_batch=nothing
    )
    request = RoundRequest(
        model=0, phase=0, step=6, position=6 * 32, num_samples=32, num_counted=32, micro_batch_size=5
    )
    flat = torch.cat([p.reshape(-1) for p in before]).numpy()
    worker.prepare(request, Publication(version=0, flats=(flat,), unchanging={}))
    worker.compute(request, 0, 1.0, (1,))
    (gradient,) = worker.gradients
    after = torch.cat([p.detach().reshape(-1) for p in training.engine.model.parameters()])
    assert torch.equal(after, torch.from_numpy(flat).add(gradient, alpha=-0.25))


def several(num_pushes: int) -> list[OrderedPush]:
    """Updates of several pushes, of which one is always an update late."""
    order, reads = [], [0] * num_pushes
    for update in range(STEPS):
        for worker in range(num_pushes):
            order.append(OrderedPush(update, worker, chunk=len(order), read_version=reads[worker]))
            reads[worker] = max(0, update) if worker == 0 else update + 1
    return order


@pytest.mark.distributed
def test_several_pushes_make_an_update_on_any_number_of_workers(tmp_path: Path) -> None:
    exchange = {"name": "delayed", "order": "order.csv", "compensation": "staleness_aware"}
    alone, lines = train(tmp_path / "alone", exchange, order=several(4))
    three, lines_of_three = train(tmp_path / "three", exchange, workers=3, order=several(4))
    assert_same_weights(alone, three, atol=1e-6)
    for key in ("loss", "accuracy"):
        assert [line[key] for line in lines] == pytest.approx([line[key] for line in lines_of_three], abs=1e-6)
    assert {line["global_size"] for line in lines} == {32}
    assert lines[0]["loss"] == pytest.approx(np.log(10), abs=0.6)  # a mean over the update, not a sum of its pushes


def test_an_ordered_job_goes_on_where_it_was_to_the_bit(tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"order": several(2), "checkpoint": {"every": 10}}
    exchange = {"name": "delayed", "order": "order.csv"}
    whole, _ = train(tmp_path / "whole", exchange, **arguments)
    spec = tiny_spec(**{**JOB, "checkpoint": {"every": 10}}, exchange=exchange)
    broken = make_run_directory(tmp_path / "broken", spec)
    write_order(broken.code / "order.csv", arguments["order"])
    broken.checkpoints.mkdir()
    (whole.checkpoints / "step_20").rename(broken.checkpoints / "step_20")
    ((_, lines),) = train_on(1, broken)
    assert [line["step"] for line in lines] == list(range(21, STEPS + 1))
    assert_same_weights(whole, broken)


@pytest.mark.parametrize(
    "compensation",
    [None, "gap_aware", "dana_zero", "weight_prediction", {"name": "dc_asgd", "variance": "adaptive"}, "dc_asgd"],
)
def test_what_plan_tells_of_memory_is_what_lies_in_the_state(tmp_path: Path, compensation: Any) -> None:
    spec = tiny_spec(**JOB, exchange={"name": "delayed", "steps": 3, "compensation": compensation})
    training = job_here(str(make_run_directory(tmp_path / "run", spec).root), ListTracker())
    _take_step(training, training.controller.plan(StepStats(step=0, samples=0, loss=None)))
    optimizer: Any = training.engine.optimizer
    for parameter, state in optimizer.state.items():
        like_weights = [value for value in state.values() if value.shape == parameter.shape]
        assert len(like_weights) == older_state(spec) + 1  # and the momentum
