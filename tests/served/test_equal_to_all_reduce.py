"""With every worker in time each scheme takes the steps of all-reduce."""

from pathlib import Path
from typing import Any

import pytest
from served.threads import train_served
from support import assert_same_weights, make_run_directory, tiny_spec, train_on

from orchestrator.core.run_directory import RunDirectory

WORKERS = 4
JOB: dict[str, Any] = {
    "train": {"steps": 12, "eval_every": 5, "clip_grad_norm": 0.5},
    "batch": {"global_size": 50, "micro_size": 7},
    "optimizer": {"name": "lamb", "lr": 0.02},
    "schedule": {"name": "polynomial", "warmup": {"steps": 3}},
    "resources": {"workers": WORKERS},
}
EXACT = {
    "uncoded": {"scheme": "uncoded"},
    "fractional": {"scheme": "fractional", "stragglers": 1},
    "fractional of three": {"scheme": "fractional", "stragglers": 2},
    "cyclic": {"scheme": "cyclic", "stragglers": 2},
}
# With a deadline that nobody misses these have everything too.
PATIENT = {"close": "deadline", "mu": 1000.0}
NEAR = {
    "ignore": {"scheme": "ignore", "stragglers": 1, **PATIENT},
    "approximate": {"scheme": "approximate", "stragglers": 2, "replicas": 2, **PATIENT},
    "approximate, cyclic": {"scheme": "approximate", "stragglers": 2, "placement": "cyclic", **PATIENT},
    "stochastic": {"scheme": "stochastic", "stragglers": 1, "replicas": 2, **PATIENT},
}


@pytest.fixture(scope="module")
def all_reduced(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    directory = make_run_directory(tmp_path_factory.mktemp("all_reduce") / "tiny", tiny_spec(**JOB))
    train_on(1, directory)
    return directory


@pytest.mark.parametrize("exchange", [*EXACT.values(), *NEAR.values()], ids=[*EXACT, *NEAR])
def test_with_every_worker_in_time(exchange: dict[str, Any], all_reduced: RunDirectory, tmp_path: Path) -> None:
    spec = tiny_spec(**JOB, exchange={"name": "coded", **exchange})
    directory = make_run_directory(tmp_path / "tiny", spec)
    outcome, tracker, _ = train_served(directory)
    assert outcome == "finished"
    assert [line["step"] for line in tracker.lines] == list(range(1, 13))
    assert_same_weights(all_reduced, directory, atol=1e-6)
