"""The rule sde of a batch controller reaches the optimizer's averages, and a resumed job sets them again."""

import shutil
from pathlib import Path

import pytest
import torch
from support import assert_same_weights, job_here, make_run_directory, tiny_spec, train_here

from orchestrator.train.averages import Averages
from orchestrator.train.loop import train

BATCH = {
    "global_size": 48,
    "micro_size": 24,
    "controller": {"name": "schedule", "sizes": "144:192", "coupling": "sde"},
}
ADAMW = {"name": "adamw", "lr": 0.01, "betas": (0.9, 0.99), "eps": 1e-6}


def test_averages_forget_as_fast_per_sample() -> None:
    spec = tiny_spec(batch=BATCH, optimizer=ADAMW)
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])
    averages = Averages(spec, [optimizer])
    (group,) = optimizer.param_groups
    averages.set(1.0)
    assert (group["betas"], group["eps"]) == ((0.9, 0.99), 1e-6)
    averages.set(4.0)
    assert group["betas"] == pytest.approx((0.6, 0.96))
    assert group["eps"] == pytest.approx(5e-7)


def test_without_the_rule_an_optimizer_without_averages_is_left_alone() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    before = dict(optimizer.param_groups[0])
    Averages(tiny_spec(), [optimizer]).set(1.0)
    assert optimizer.param_groups[0] == before


def test_the_loop_sets_them_and_a_resumed_job_sets_them_again(tmp_path: Path) -> None:
    spec = tiny_spec(batch=BATCH, optimizer=ADAMW, checkpoint={"every": 5})
    whole = make_run_directory(tmp_path / "whole", spec)
    from support import ListTracker

    tracker = ListTracker()
    job = job_here(str(whole.root), tracker)
    train(job)
    (group,) = job.engine.optimizer.param_groups[:1]  # type: ignore[attr-defined]
    assert group["betas"] == pytest.approx((0.6, 0.96))
    assert [line["global_size"] for line in tracker.lines] == [48, 48, 48, 192, 192, 192]
    assert [line["lr"] for line in tracker.lines] == pytest.approx([0.01] * 3 + [0.02] * 3)

    again = make_run_directory(tmp_path / "again", spec)
    train_here(str(again.root))
    broken = make_run_directory(tmp_path / "broken", spec)
    shutil.copytree(again.checkpoints / "step_5", broken.checkpoints / "step_5")
    train_here(str(broken.root))
    assert_same_weights(again, broken)
