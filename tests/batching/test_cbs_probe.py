"""Probes of the critical batch: when, with which branches and rates, and what is made of their losses."""

from __future__ import annotations

import itertools
import json
import math
import random
from typing import Any

import pytest
from batching.controlled import controller_of

from orchestrator.batching.cbs_probe import average_at_the_end, critical_multiple
from orchestrator.core.protocols import BatchController
from orchestrator.core.values import BatchPlan, StepStats

CONFIG = {"name": "cbs_probe", "every_samples": 1000, "branch_samples": 1024, "max_size": 256}
FLAT = ((1.0,) * 16, (1.0,) * 8, (1.0,) * 4)
"""Losses of branches that are all as good, of batches of 64, 128 and 256."""


@pytest.mark.parametrize("seed", range(100))
def test_the_critical_multiple_is_the_largest_that_no_smaller_one_beats(seed: int) -> None:
    rng = random.Random(seed)
    losses = {2**power: rng.choice((rng.uniform(1, 1.1), math.inf)) for power in range(rng.randint(1, 6))}
    tolerance = rng.uniform(0.0, 0.1)
    passing = [
        k for k in losses if losses[k] < math.inf and all(losses[k] <= losses[j] + tolerance for j in losses if j < k)
    ]
    assert critical_multiple(losses, tolerance) == max(passing, default=1)


def test_a_larger_batch_counts_beyond_a_smaller_one_that_fails() -> None:
    assert critical_multiple({1: 1.0, 2: 1.2, 4: 1.005}, 0.01) == 4
    assert critical_multiple({1: 1.0, 2: 0.9, 4: 0.95}, 0.01) == 2


def test_the_average_keeps_its_share_of_every_loss() -> None:
    assert average_at_the_end([4.0, 2.0, 1.0], 0.5) == 0.5 * (0.5 * 4 + 0.5 * 2) + 0.5 * 1
    assert average_at_the_end([4.0, 2.0, 1.0], 0.0) == 1.0
    assert average_at_the_end([4.0, math.nan, 1.0], 0.5) == math.inf


def run(
    controller: BatchController, answers: Any, until: int, start: int = 0, **stats: Any
) -> tuple[list[tuple[int, BatchPlan]], list[tuple[int, BatchPlan]]]:
    """The requests for branches and the plans after them, each with the samples seen so far."""
    asked, decided, samples = [], [], start
    for step in itertools.count():
        if samples >= until:
            return asked, decided
        shown = {"step": step, "samples": samples, "loss": None, **stats}
        plan = controller.plan(StepStats(**shown))
        if plan.branches is not None:
            asked.append((samples, plan))
            plan = controller.plan(StepStats(**shown, branch_losses=next(answers)))
            assert plan.branches is None
            decided.append((samples, plan))
        samples += plan.global_batch_size
    raise AssertionError


@pytest.mark.parametrize(
    ("optimizer", "coupling", "factors"),
    [
        ({"name": "sgd", "lr": 0.1}, {}, (1.0, 2.0, 4.0)),
        ({"name": "adamw", "lr": 0.1}, {}, (1.0, 2**0.5, 2.0)),
        ({"name": "sgd", "lr": 0.1}, {"coupling": "none"}, (1.0, 1.0, 1.0)),
    ],
)
def test_branches_have_the_multiples_of_the_batch_at_the_rates_that_go_with_them(
    optimizer: dict[str, Any], coupling: dict[str, Any], factors: tuple[float, ...]
) -> None:
    controller = controller_of({**CONFIG, **coupling}, optimizer=optimizer)
    asked, decided = run(controller, itertools.repeat(FLAT), until=1200)
    ((at, plan),) = asked
    assert at == 1024  # the first step that begins at 1,000 samples or later
    assert plan.branches is not None
    assert plan.branches.batches == (64, 128, 256)
    assert plan.branches.lr_factors == pytest.approx(factors)
    assert plan.branches.num_samples == 1024
    assert decided[0][1].lr_factor == pytest.approx(factors[1])


def test_the_batch_doubles_up_to_the_largest_and_then_nothing_is_probed() -> None:
    answers = itertools.chain([FLAT], itertools.repeat(((1.0,) * 8, (1.0,) * 4)))
    controller = controller_of(CONFIG)
    asked, decided = run(controller, answers, until=9000)
    assert [plan.branches.batches for _, plan in asked if plan.branches] == [(64, 128, 256), (128, 256)]
    assert [plan.global_batch_size for _, plan in decided] == [128, 256]
    probe, decision = decided[0][1].probe, decided[0][1].decision
    assert probe is not None
    assert (probe.critical_batch, probe.num_samples, probe.losses) == (256, 3 * 1024, (1.0, 1.0, 1.0))
    assert decision is not None
    assert (decision.batch, decision.target, decision.reason) == (128, 256.0, "the critical batch is 256 or more")
    last = decided[1][1].probe
    assert last is not None
    assert (last.num_samples, last.num_samples_so_far) == (2 * 1024, 5 * 1024)


def test_a_batch_whose_double_is_worse_stays_and_is_probed_again() -> None:
    worse = ((1.0,) * 16, (1.2,) * 8, (1.3,) * 4)
    asked, decided = run(controller_of({**CONFIG, "after_samples": 200}), itertools.repeat(worse), until=4000)
    assert [at for at, _ in asked] == [256, 1280, 2304, 3328]
    assert {plan.global_batch_size for _, plan in decided} == {64}
    assert decided[0][1].decision is not None
    assert decided[0][1].decision.reason == "the critical batch is below 128"
    tolerant = controller_of({**CONFIG, "tolerance": 0.25})
    assert run(tolerant, itertools.repeat(worse), until=1200)[1][0][1].global_batch_size == 128


def test_nothing_is_probed_in_the_warmup_or_with_too_few_samples_left() -> None:
    controller = controller_of(CONFIG)
    assert run(controller, iter(()), until=3000, is_warmup=True) == ([], [])
    assert run(controller, iter(()), until=100_000, start=100_000 - 1000) == ([], [])  # of the job's 100,000


def test_a_resumed_controller_goes_on_where_it_was() -> None:
    worse = itertools.repeat(((1.0,) * 16, (1.2,) * 8, (1.3,) * 4))
    controller, again = controller_of(CONFIG), controller_of(CONFIG)
    run(controller, worse, until=1500)
    again.load_state_dict(json.loads(json.dumps(controller.state_dict())))
    first, second = (run(one, worse, until=5000, start=1536) for one in (controller, again))
    assert first == second
    assert first[1][0][1].probe is not None
    assert first[1][0][1].probe.num_samples_so_far == 2 * 3 * 1024
