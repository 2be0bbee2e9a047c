"""``worker_times.jsonl``: what is written when, what a resumed job finds, and what becomes of slow workers."""

import json
import logging
import math
from pathlib import Path

import pytest
from support import ListTracker

from orchestrator.core import worker_times
from orchestrator.core.run_directory import RunDirectory, read_json_lines
from orchestrator.core.worker_times import StepTimes, WorkerTimesWriter, cut_back, encode_step, read_recent
from orchestrator.core.worker_watch import WorkerWatch


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "worker_times.jsonl"


def times(step: int, workers: int = 2) -> StepTimes:
    return StepTimes(step, [step / 10] * workers, [1024] * workers)


def write(path: Path, steps: range, workers: int = 2) -> None:
    with path.open("ab") as stream:
        stream.writelines(encode_step(times(step, workers)) for step in steps)


def steps_of(path: Path) -> list[int]:
    return [line["step"] for line in read_json_lines(path)]


def test_a_line_is_strict_json_and_unknown_is_null() -> None:
    line = encode_step(StepTimes(12, [0.20134567, None, math.nan, math.inf], [65536.0, None, math.nan, 0.0]))
    assert line == b'{"step": 12, "seconds": [0.201346, null, null, null], "elements": [65536, null, null, 0]}\n'


def test_lines_wait_in_memory_for_a_second(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 100.0
    monkeypatch.setattr(worker_times.time, "monotonic", lambda: now_s)
    writer = WorkerTimesWriter(path, last_step=0)
    writer.flush()
    writer.add(times(1))
    now_s += worker_times.MAX_BUFFERED_S - 0.1
    writer.add(times(2))
    assert not path.exists()
    now_s += 0.1
    writer.add(times(3))
    assert steps_of(path) == [1, 2, 3]
    writer.add(times(4))
    assert steps_of(path) == [1, 2, 3]
    writer.flush()
    writer.flush()
    assert steps_of(path) == [1, 2, 3, 4]


@pytest.mark.parametrize(("last_step", "kept"), [(0, 0), (3, 3), (6, 6), (99, 6)])
def test_a_writer_removes_what_will_be_taken_again(path: Path, last_step: int, kept: int) -> None:
    write(path, range(1, 7))
    with path.open("ab") as stream:
        stream.write(b'{"step": 3, "sec')
    writer = WorkerTimesWriter(path, last_step=last_step)
    assert path.read_bytes().count(b"\n") == kept
    writer.add(times(kept + 1))
    writer.flush()
    assert steps_of(path) == list(range(1, kept + 2))


def test_a_crash_at_any_byte_leaves_whole_lines(path: Path) -> None:
    write(path, range(1, 4))
    whole = path.read_bytes()
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        cut_back(path, last_step=2)
        assert steps_of(path) == list(range(1, min(2, whole[:size].count(b"\n")) + 1))


def test_steps_that_were_lost_do_not_take_earlier_ones_along(path: Path) -> None:
    """Lines that waited in memory when a process was killed are missing before the checkpoint."""
    write(path, range(1, 4))
    cut_back(path, last_step=5)
    assert steps_of(path) == [1, 2, 3]


def test_a_damaged_end_goes(path: Path) -> None:
    write(path, range(1, 3))
    with path.open("ab") as stream:
        stream.write(b"\0\0\0\n[1]\n{}\n")
    cut_back(path, last_step=9)
    assert steps_of(path) == [1, 2]


def test_the_newest_steps_are_read_oldest_first(path: Path) -> None:
    assert read_recent(path, 10) == []
    path.touch()
    assert read_recent(path, 10) == []
    write(path, range(1, 9))
    with path.open("ab") as stream:
        stream.write(b'{"step": 9, "sec')
    assert [found.step for found in read_recent(path, 3)] == [6, 7, 8]
    assert [found.step for found in read_recent(path, 99)] == list(range(1, 9))
    assert read_recent(path, 1) == [times(8)]


def test_steps_of_another_number_of_workers_are_not_mixed_in(path: Path) -> None:
    write(path, range(1, 5), workers=4)
    write(path, range(5, 8), workers=2)
    assert [found.step for found in read_recent(path, 99)] == [5, 6, 7]


def test_a_file_that_cannot_be_written_is_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "gone" / "worker_times.jsonl"
    writer = WorkerTimesWriter(path, last_step=0)
    with caplog.at_level(logging.WARNING):
        for step in range(1, 4):
            writer.add(times(step))
            writer.flush()
    (record,) = caplog.records
    assert "worker_times.jsonl cannot be written" in record.message
    path.parent.mkdir()
    writer.add(times(4))
    writer.flush()
    assert not path.exists()  # its first steps are missing: it stays away


def test_a_file_that_cannot_be_cut_is_left_alone(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.mkdir()
    writer = WorkerTimesWriter(path, last_step=0)
    writer.add(times(1))
    writer.flush()
    assert len(caplog.records) == 1


def test_a_slow_worker_becomes_an_event_with_its_node(tmp_path: Path) -> None:
    tracker = ListTracker()
    run = RunDirectory(tmp_path)
    watch = WorkerWatch(run, tracker, ("a", "a", "b"), last_step=0)
    watch.observe(StepTimes(0, [None, None, None], [64, 64, 64]))
    assert watch.slowest_worker_ratio is None
    for step in range(1, 60):
        watch.observe(StepTimes(step, [0.1, 0.1, 0.2 if step <= 40 else 0.1], [64, 64, 64]))
        if step == 40:
            assert watch.slowest_worker_ratio == pytest.approx(2.0, abs=1e-3)
    watch.flush()
    slow = {"worker": 2, "node": "b", "since_step": 1}
    assert tracker.events == [
        ("straggler", {**slow, "ratio": 2.0, "num_steps": 21}),
        ("straggler_over", {**slow, "ratio": pytest.approx((40 * 2 + 5) / 45, abs=1e-3), "num_steps": 45}),
    ]
    assert steps_of(run.worker_times_file) == list(range(60))
    assert json.loads(json.dumps(tracker.events))


def test_a_worker_alone_has_no_ratio(tmp_path: Path) -> None:
    watch = WorkerWatch(RunDirectory(tmp_path), ListTracker(), ("a",), last_step=0)
    watch.observe(StepTimes(1, [0.1], [64]))
    assert watch.slowest_worker_ratio is None
