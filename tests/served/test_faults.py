"""Stragglers, deaths and broken numbers among the workers of a served job."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from served.threads import Died, ThreadPort, train_served
from support import assert_same_weights, make_run_directory, tiny_spec, train_on

from orchestrator.core.errors import RecipeError
from orchestrator.core.run_directory import RunDirectory, read_json_lines
from orchestrator.core.served import MessageKey

STEPS = 12
JOB: dict[str, Any] = {
    "train": {"steps": STEPS},
    "batch": {"global_size": 48, "micro_size": 5},
    "optimizer": {"name": "adamw", "lr": 0.01},
    "resources": {"workers": 4},
}
FRACTIONAL = {"name": "coded", "scheme": "fractional", "stragglers": 1}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    directory = make_run_directory(tmp_path_factory.mktemp("plain") / "tiny", tiny_spec(**JOB))
    train_on(1, directory)
    return directory


def served(folder: Path, exchange: dict[str, Any] = FRACTIONAL, **sections: Any) -> RunDirectory:
    return make_run_directory(folder / "tiny", tiny_spec(**{**JOB, **sections}, exchange=exchange))


def test_workers_that_die_in_every_round_are_replaced(undisturbed: RunDirectory, tmp_path: Path) -> None:
    lock, deaths = threading.Lock(), set[int]()

    def die_once_a_job(port: ThreadPort, key: MessageKey, message: NDArray[Any]) -> NDArray[Any]:
        with lock:
            if key.job not in deaths:
                deaths.add(key.job)
                raise Died
        return message

    directory = served(tmp_path)
    outcome, _, cluster = train_served(directory, on_push=die_once_a_job)
    assert outcome == "finished"
    assert deaths == set(range(STEPS))
    assert cluster.num_deaths == STEPS
    assert_same_weights(undisturbed, directory, atol=1e-6)


def test_the_death_of_a_whole_group_waits_for_its_replacement(undisturbed: RunDirectory, tmp_path: Path) -> None:
    # Without replicas every worker is its group.
    lock, deaths = threading.Lock(), set[int]()

    def die_once_each(port: ThreadPort, key: MessageKey, message: NDArray[Any]) -> NDArray[Any]:
        with lock:
            if port.sender.incarnation == 0 and key.job == 3:
                deaths.add(port.sender.worker)
                raise Died
        return message

    directory = served(tmp_path, {"name": "coded", "scheme": "uncoded"})
    outcome, _, _ = train_served(directory, on_push=die_once_each)
    assert outcome == "finished"
    assert deaths == {0, 1, 2, 3}
    assert_same_weights(undisturbed, directory, atol=1e-6)


def test_a_message_that_is_not_finite_makes_a_straggler(undisturbed: RunDirectory, tmp_path: Path) -> None:
    def spoil(port: ThreadPort, key: MessageKey, message: NDArray[Any]) -> NDArray[Any]:
        if port.sender.worker == 2:
            message[key.job % len(message)] = np.nan
        return message

    directory = served(tmp_path)
    outcome, tracker, _ = train_served(directory, on_push=spoil)
    assert outcome == "finished"
    assert all(line["workers_used"] == 2 for line in tracker.lines)
    assert_same_weights(undisturbed, directory, atol=1e-6)


def test_gradients_that_are_not_finite_anywhere_end_the_training(tmp_path: Path) -> None:
    def spoil(port: ThreadPort, key: MessageKey, message: NDArray[Any]) -> NDArray[Any]:
        return np.full_like(message, np.inf) if key.job == 4 else message

    directory = served(tmp_path)
    with pytest.raises(RecipeError, match=r"gradients of step 5 are not finite on workers 0, 1, 2, 3"):
        train_served(directory, on_push=spoil)


def test_a_straggler_is_left_behind_and_recorded(undisturbed: RunDirectory, tmp_path: Path) -> None:
    delays = tmp_path / "delays.csv"
    delays.write_text("0,0,3,0\n", encoding="utf-8")
    directory = served(tmp_path, {**FRACTIONAL, "inject": {"delays": str(delays)}})
    outcome, tracker, _ = train_served(directory)
    assert outcome == "finished"
    assert_same_weights(undisturbed, directory, atol=1e-6)
    rows = list(read_json_lines(directory.worker_times_file))
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    left = [row.get("left", []) for row in rows]
    assert sum(2 in workers for workers in left) >= STEPS - 3  # the first rounds wait for late comers
    assert tracker.lines[-1]["slowest_worker_ratio"] > 1.2


@pytest.mark.parametrize(
    ("exchange", "coverage"),
    [
        ({"scheme": "ignore", "stragglers": 1}, 0.75),
        ({"scheme": "approximate", "stragglers": 3, "replicas": 2}, None),
        ({"scheme": "stochastic", "stragglers": 1, "replicas": 2}, None),
        ({"scheme": "backup", "backups": 1}, 1.0),
    ],
    ids=lambda value: value["scheme"] if isinstance(value, dict) else "",
)
def test_lossy_schemes_train_and_say_what_they_covered(
    exchange: dict[str, Any], coverage: float | None, tmp_path: Path
) -> None:
    delays = tmp_path / "delays.csv"
    delays.write_text("0,0.2,0,0\n0.2,0,0,0\n", encoding="utf-8")
    directory = served(tmp_path, {"name": "coded", **exchange, "inject": {"delays": str(delays)}})
    outcome, tracker, _ = train_served(directory)
    assert outcome == "finished"
    assert tracker.lines[-1]["loss"] < tracker.lines[0]["loss"]
    if coverage is not None:
        assert min(line["coverage"] for line in tracker.lines) == coverage
    assert [line["step"] for line in tracker.lines] == list(range(1, STEPS + 1))
    drawn = 64 if exchange["scheme"] == "backup" else 48
    assert [line["global_size"] for line in tracker.lines[:3]] == [drawn] * 3


@pytest.mark.parametrize("exchange", [{"scheme": "ignore", "stragglers": 1}, {"scheme": "backup", "backups": 2}])
def test_a_last_step_with_fewer_samples_than_workers_waits_for_them(exchange: dict[str, Any], tmp_path: Path) -> None:
    sections = {"train": {"samples": 193}, "batch": {"global_size": 48}}
    delays = tmp_path / "delays.csv"
    # Slow enough for a thousand billion times as long to be more than a thread can wait.
    delays.write_text("0.1,0.1,0.1,0.1\n", encoding="utf-8")
    inject = {"inject": {"delays": str(delays)}}
    directory = served(tmp_path, {"name": "coded", **exchange, **inject}, **sections)
    outcome, tracker, _ = train_served(directory)
    assert outcome == "finished"
    assert tracker.lines[-1]["samples"] == 193
    assert tracker.lines[-1]["global_size"] == 1
    assert tracker.lines[-1]["loss"] > 0
