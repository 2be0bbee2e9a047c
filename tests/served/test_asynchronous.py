"""Asynchronous training with threads for workers: exactly-once samples, old gradients, orders that repeat."""

import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from served.threads import Died, ThreadPort, train_served
from support import assert_same_weights, make_run_directory, tiny_spec, train_on

from orchestrator.core.errors import DivergedError
from orchestrator.core.run_directory import RunDirectory
from orchestrator.core.served import MessageKey
from orchestrator.spec.push_order import read_order

STEPS = 40
JOB: dict[str, Any] = {
    "train": {"steps": STEPS},
    "batch": {"global_size": 32, "micro_size": 8},
    "optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 1e-3},
    "resources": {"workers": 4},
}
ASYNCHRONOUS = {"name": "asynchronous"}


def prepared(folder: Path, exchange: dict[str, Any] = ASYNCHRONOUS, **sections: Any) -> RunDirectory:
    return make_run_directory(folder / "tiny", tiny_spec(**{**JOB, **sections}, exchange=exchange))


def test_one_worker_that_does_not_overlap_is_synchronous_to_the_bit(tmp_path: Path) -> None:
    one = {"workers": 1}
    plain = make_run_directory(tmp_path / "plain" / "tiny", tiny_spec(**{**JOB, "resources": one}))
    train_on(1, plain)
    directory = prepared(tmp_path, {"name": "asynchronous", "overlap": False}, resources=one)
    outcome, tracker, _ = train_served(directory)
    assert outcome == "finished"
    assert {line["delay"] for line in tracker.lines} == {0.0}
    assert_same_weights(plain, directory, atol=0)


def test_every_sample_is_accepted_once(tmp_path: Path) -> None:
    directory = prepared(tmp_path, train={"epochs": 2})
    outcome, tracker, _ = train_served(directory)
    order = read_order(directory.pushes_file)
    assert outcome == "finished"
    assert sorted(push.chunk for push in order) == list(range(94))  # 2 x 1,500 samples, 32 each
    assert tracker.lines[-1]["samples"] == 3000
    assert Counter(line["global_size"] for line in tracker.lines) == {32: 93, 24: 1}
    assert max(push.delay for push in order) > 0
    assert [line["delay"] for line in tracker.lines] == [push.delay for push in order]


def test_workers_that_die_lose_no_sample_and_count_none_twice(tmp_path: Path) -> None:
    lock, calls = threading.Lock(), Counter[int]()

    def die_often(port: ThreadPort, key: MessageKey, message: NDArray[Any]) -> NDArray[Any]:
        with lock:
            calls["pushes"] += 1
            if calls["pushes"] % 5 == 0:
                raise Died
        return message

    directory = prepared(tmp_path)
    outcome, tracker, cluster = train_served(directory, on_push=die_often)
    assert outcome == "finished"
    assert cluster.num_deaths >= STEPS // 5
    assert sorted(push.chunk for push in read_order(directory.pushes_file)) == list(range(STEPS))
    assert len(tracker.lines) == STEPS


def test_a_recorded_order_gives_the_same_weights_to_the_bit(tmp_path: Path) -> None:
    first = prepared(tmp_path / "first")
    train_served(first)
    spec = tiny_spec(**JOB, exchange={"name": "asynchronous", "order": "order.csv"})
    again = make_run_directory(tmp_path / "again" / "tiny", spec)
    (again.code / "order.csv").write_bytes(first.pushes_file.read_bytes())
    lock, calls = threading.Lock(), Counter[int]()

    def die_at_times(port: ThreadPort, key: MessageKey, message: NDArray[Any]) -> NDArray[Any]:
        with lock:
            calls["pushes"] += 1
            if calls["pushes"] % 7 == 0:
                raise Died
        return message

    _, _, cluster = train_served(again, on_push=die_at_times)
    assert cluster.num_deaths > 0
    assert read_order(again.pushes_file) == read_order(first.pushes_file)
    assert_same_weights(first, again, atol=0)


def test_several_pushes_make_an_update(tmp_path: Path) -> None:
    directory = prepared(tmp_path, {"name": "asynchronous", "pushes_per_update": 4})
    _, tracker, _ = train_served(directory)
    order = read_order(directory.pushes_file)
    assert Counter(push.update for push in order) == dict.fromkeys(range(STEPS), 4)
    assert {line["global_size"] for line in tracker.lines} == {32}


def test_as_many_pushes_as_workers_that_wait_for_each_other_are_synchronous(tmp_path: Path) -> None:
    plain = make_run_directory(tmp_path / "plain" / "tiny", tiny_spec(**JOB))
    train_on(1, plain)
    exchange = {"name": "asynchronous", "pushes_per_update": 4, "max_lead": 0, "overlap": False}
    directory = prepared(tmp_path, exchange)
    _, tracker, _ = train_served(directory)
    assert {line["delay"] for line in tracker.lines} == {0.0}
    assert_same_weights(plain, directory, atol=1e-6)


def test_pushes_that_are_too_old_are_computed_again(tmp_path: Path) -> None:
    directory = prepared(tmp_path, {"name": "asynchronous", "max_delay": 1})
    outcome, tracker, _ = train_served(directory)
    assert outcome == "finished"
    order = read_order(directory.pushes_file)
    assert max(push.delay for push in order) <= 1
    assert sorted(push.chunk for push in order) == list(range(STEPS))
    assert tracker.lines[-1]["stale_pushes"] > 0


def test_a_gradient_that_is_not_finite_is_computed_again(tmp_path: Path) -> None:
    lock, broken = threading.Lock(), list[int]()

    def break_one(port: ThreadPort, key: MessageKey, message: NDArray[Any]) -> NDArray[Any]:
        with lock:
            if len(broken) < 2:
                broken.append(key.job)
                message = message.copy()
                message[0] = np.nan
        return message

    directory = prepared(tmp_path)
    outcome, tracker, _ = train_served(directory, on_push=break_one)
    assert outcome == "finished"
    assert tracker.lines[-1]["refused_pushes"] == 2
    assert sorted(push.chunk for push in read_order(directory.pushes_file)) == list(range(STEPS))


def test_weights_that_diverge_are_told(tmp_path: Path) -> None:
    directory = prepared(tmp_path, optimizer={"name": "sgd", "lr": 1e6, "momentum": 0.9})
    with pytest.raises(DivergedError, match="not finite"):
        train_served(directory)


def test_a_checkpoint_knows_which_samples_are_done(tmp_path: Path) -> None:
    spec = {"train": {"steps": STEPS}, "checkpoint": {"every": 7}}
    directory = prepared(tmp_path, **spec)
    stopped = make_run_directory(tmp_path / "stopped" / "tiny", tiny_spec(**{**JOB, **spec}, exchange=ASYNCHRONOUS))

    def stop(port: ThreadPort, key: MessageKey, message: NDArray[Any]) -> NDArray[Any]:
        if key.job == 15:
            stopped.stop_file.touch()
        return message

    outcome, *_ = train_served(stopped, on_push=stop)
    assert outcome == "stopped"
    done_before = {push.chunk for push in read_order(stopped.pushes_file)}
    stopped.stop_file.unlink()
    outcome, tracker, _ = train_served(stopped)
    assert outcome == "finished"
    order = read_order(stopped.pushes_file)
    assert sorted(push.chunk for push in order) == list(range(STEPS))
    assert 0 < len(done_before) < STEPS
    assert len(tracker.lines) == STEPS - len(done_before)
    assert directory is not stopped


def test_a_job_that_went_back_goes_on_at_a_lower_rate(tmp_path: Path) -> None:
    directory = prepared(tmp_path, {"name": "asynchronous", "rollback_lr_factor": 0.25})
    directory.update_state(retries_used={"diverged": 2})
    _, tracker, _ = train_served(directory)
    assert [line["lr"] for line in tracker.lines] == pytest.approx([0.05 / 16] * STEPS)
