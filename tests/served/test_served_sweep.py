"""Several models over the same workers: each is trained as it would be alone."""

import json
from pathlib import Path
from typing import Any

import pytest
from served.threads import train_models
from support import assert_same_weights, make_run_directory, tiny_spec, train_on

from orchestrator.core.run_directory import RunDirectory, read_json_lines
from orchestrator.launch.trials import prepare_trials
from orchestrator.spec.job import JobSpec
from orchestrator.spec.sweep import trials_of

JOB: dict[str, Any] = {
    "train": {"steps": 8, "eval_every": 4},
    "batch": {"global_size": 52, "micro_size": 9},
    "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9},
    "resources": {"workers": 4},
}
# Of different length too: the models that are done first leave the others their turns.
SWEEP = {"zip": {"optimizer.lr": [0.02, 0.05, 0.1], "train.steps": [8, 5, 8], "train.seed": [0, 1, 2]}}
SCHEMES = {
    "m_sgc": {"scheme": "m_sgc", "burst": 1, "window": 2, "max_stragglers": 1},
    "m_sgc over three rounds": {"scheme": "m_sgc", "burst": 1, "window": 3, "max_stragglers": 2},
    "sr_sgc": {"scheme": "sr_sgc", "burst": 1, "window": 2, "max_stragglers": 2},
    "fractional": {"scheme": "fractional", "stragglers": 1},
}


def prepared(folder: Path, exchange: dict[str, Any], sweep: dict[str, Any] = SWEEP) -> tuple[RunDirectory, JobSpec]:
    spec = tiny_spec(**JOB, sweep=sweep, exchange={"name": "coded", **exchange})
    directory = make_run_directory(folder / "tiny", spec)
    prepare_trials(directory, spec)
    for trial in directory.trials:
        trial.update_state(phase="running", attempts=1)
    return directory, spec


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> list[RunDirectory]:
    spec = tiny_spec(**JOB, sweep=SWEEP, exchange={"name": "coded", "scheme": "uncoded"})
    directories = []
    for trial in trials_of(spec):
        plain = trial.model_copy(update={"exchange": tiny_spec().exchange})
        directories.append(make_run_directory(tmp_path_factory.mktemp("alone") / "tiny", plain))
        train_on(1, directories[-1])
    return directories


@pytest.mark.parametrize("exchange", SCHEMES.values(), ids=SCHEMES)
def test_every_model_gets_the_weights_of_its_own_training(
    exchange: dict[str, Any], alone: list[RunDirectory], tmp_path: Path
) -> None:
    directory, _ = prepared(tmp_path, exchange)
    results, _ = train_models(directory, directory.trials)
    assert [outcome for outcome, _ in results] == ["finished"] * 3
    for trial, expected, (_, tracker), steps in zip(directory.trials, alone, results, (8, 5, 8), strict=True):
        assert [line["step"] for line in tracker.lines] == list(range(1, steps + 1))
        assert "eval/loss" in tracker.lines[-1]
        assert_same_weights(expected, trial, atol=1e-6)


def test_stragglers_within_the_model_change_nothing(alone: list[RunDirectory], tmp_path: Path) -> None:
    delays = tmp_path / "delays.csv"
    # One worker of four is slow, in one round of two: a burst of 1 in every window of 2.
    delays.write_text("0,0,0,0.4\n0,0,0,0\n", encoding="utf-8")
    directory, _ = prepared(tmp_path, {**SCHEMES["m_sgc"], "inject": {"delays": str(delays)}})
    results, _ = train_models(directory, directory.trials)
    assert [outcome for outcome, _ in results] == ["finished"] * 3
    for trial, expected in zip(directory.trials, alone, strict=True):
        assert_same_weights(expected, trial, atol=1e-6)
    rows = list(read_json_lines(directory.worker_times_file))
    assert any(3 in row.get("left", []) for row in rows)


def test_a_stopped_sweep_goes_on(alone: list[RunDirectory], tmp_path: Path) -> None:
    directory, _ = prepared(tmp_path, SCHEMES["m_sgc"])

    def stop(port: Any, key: Any, message: Any) -> Any:
        if key.job == 7:
            directory.stop_file.touch()
        return message

    results, _ = train_models(directory, directory.trials, on_push=stop)
    assert [outcome for outcome, _ in results] == ["stopped"] * 3
    directory.stop_file.unlink()
    results, _ = train_models(directory, directory.trials)
    assert [outcome for outcome, _ in results] == ["finished"] * 3
    for trial, expected in zip(directory.trials, alone, strict=True):
        assert_same_weights(expected, trial, atol=1e-6)


@pytest.mark.parametrize("exchange", [SCHEMES["m_sgc"], SCHEMES["fractional"]], ids=["m_sgc", "fractional"])
def test_a_trial_that_diverges_ends_alone(exchange: dict[str, Any], alone: list[RunDirectory], tmp_path: Path) -> None:
    sweep = {"zip": {**SWEEP["zip"], "optimizer.lr": [0.02, 1e38, 0.1]}}
    directory, _ = prepared(tmp_path, exchange, sweep=sweep)
    results, _ = train_models(directory, directory.trials)
    assert [outcome for outcome, _ in results] == ["finished", "diverged", "finished"]
    # Nothing is left of the messages of jobs that were given up.
    for number in (0, 2):
        assert_same_weights(alone[number], directory.trial(number), atol=1e-6)
    failure = json.loads(directory.trial(1).failure_file.read_text(encoding="utf-8"))
    assert failure["attempt"] == 1
    assert "not finite" in failure["message"]
    assert not directory.trial(1).model_file.exists()
