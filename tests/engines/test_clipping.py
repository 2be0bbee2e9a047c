"""Clipping by a bound that follows the gradient's own history."""

from pathlib import Path

import numpy as np
import pytest
from engines.test_equal import ENGINES
from engines.training import engine_spec, largest_difference, prepare, run_cases
from support import assert_same_weights

from orchestrator.engines.clipping import Clipping
from orchestrator.spec.job import Train

STEPS = 8


def test_the_bound_is_a_quantile_of_the_last_norms() -> None:
    clipping = Clipping(Train.model_validate({"steps": 1, "auto_clip": {"quantile": 0.3, "history": 5}}))
    norms = [3.0, 1.0, 4.0, 1.5, 9.0, 2.6, 5.3]
    bounds = [clipping.bound(norm) for norm in norms]
    # The step's own norm is among them, so the first gradient is never shortened.
    assert bounds == pytest.approx([np.quantile(norms[max(0, i - 4) : i + 1], 0.3) for i in range(len(norms))])
    assert bounds[0] == norms[0]


def test_a_step_that_overflowed_is_forgotten() -> None:
    clipping = Clipping(Train.model_validate({"steps": 1, "auto_clip": {}}))
    assert clipping.bound(float("nan")) == float("inf")
    assert clipping.bound(2.0) == 2.0
    assert clipping.bound(float("inf")) == 2.0
    restored = Clipping(Train.model_validate({"steps": 1, "auto_clip": {}}))
    restored.load_state_dict(clipping.state_dict())
    assert restored.bound(4.0) == clipping.bound(4.0)


@pytest.mark.distributed
@pytest.mark.timeout(300)
def test_every_engine_clips_alike_and_remembers(tmp_path: Path) -> None:
    # A low quantile, so that most steps are clipped, by different bounds.
    train = {"clip_grad_norm": None, "auto_clip": {"quantile": 0.2, "history": 4}}
    names = ("ddp", "fsdp2", "zero 0", "zero 1", "zero 3, offloaded in sub-groups")
    jobs = {name: prepare(tmp_path / name, engine_spec(ENGINES[name], 2, train=dict(train))) for name in names}
    metrics = run_cases(2, [(directory, STEPS) for directory in jobs.values()])
    norms = [line["grad_norm"] for line in metrics[0]]
    assert len(set(norms)) == STEPS
    for lines in metrics:
        assert [line["grad_norm"] for line in lines] == pytest.approx(norms, rel=1e-4)
    differences = {name: largest_difference(jobs["ddp"], directory) for name, directory in jobs.items()}
    assert differences == pytest.approx(dict.fromkeys(jobs, 0.0), abs=1e-6)

    halves = {
        name: prepare(tmp_path / f"half {name}", engine_spec(ENGINES[name], 2, train=dict(train))) for name in names
    }
    run_cases(2, [(directory, STEPS // 2) for directory in halves.values()])
    resumed = {
        name: prepare(
            tmp_path / f"resumed {name}",
            engine_spec(ENGINES[name], 2, train=dict(train)),
            halves[name].checkpoints / f"step_{STEPS // 2}",
        )
        for name in names
    }
    run_cases(2, [(directory, STEPS) for directory in resumed.values()])
    for name in names:
        assert_same_weights(jobs[name], resumed[name])
