"""How `status` and the result tell of the workers' times, read from run directories as jobs leave them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.cli.result import result_fields
from orchestrator.cli.workers import MAX_ROWS, MAX_STEPS, WorkerRow, slowest_worker, table, worker_rows
from orchestrator.core.run_directory import RunDirectory
from orchestrator.core.worker_times import StepTimes, encode_step
from orchestrator.launch.prepare import prepare
from orchestrator.spec.load import load_spec

NODES = ["a", "a", "b"]
Seconds = Callable[[int], list[float | None]]


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    (tmp_path / "job").mkdir()
    return RunDirectory(tmp_path / "job")


def start(run: RunDirectory, step: int = 0, nodes: list[str] = NODES) -> None:
    lengths = {"total_steps": 2000, "total_samples": 2000}
    run.event("resumed" if step else "started", {"step": step, "workers": len(nodes), "nodes": nodes, **lengths})


def take(run: RunDirectory, steps: range, seconds: Seconds) -> None:
    with run.worker_times_file.open("ab") as stream:
        stream.writelines(encode_step(StepTimes(step, seconds(step), [64] * len(seconds(step)))) for step in steps)


def straggler(run: RunDirectory, worker: int, since_step: int, ratio: float = 2.0, num_steps: int = 21) -> None:
    fields = {"worker": worker, "node": NODES[worker], "ratio": ratio, "since_step": since_step}
    run.event("straggler", {**fields, "num_steps": num_steps})


def over(run: RunDirectory, worker: int, since_step: int, ratio: float, num_steps: int) -> None:
    fields = {"worker": worker, "node": NODES[worker], "ratio": ratio, "since_step": since_step}
    run.event("straggler_over", {**fields, "num_steps": num_steps})


def steady(step: int) -> list[float | None]:
    return [0.1, 0.1 + step / 1e6, 0.18]


def test_each_worker_has_its_times_its_node_and_its_ratio(run: RunDirectory) -> None:
    start(run)
    take(run, range(1, 101), steady)
    straggler(run, 2, since_step=1)
    first, second, third = worker_rows(run)
    assert first == WorkerRow(
        worker=0, node="a", median_s=0.1, p95_s=0.1, ratio=first.ratio, steps=100, slow_since_step=None
    )
    assert (second.median_s, second.p95_s) == (pytest.approx(0.1000505), 0.100095)
    assert (third.node, third.steps, third.slow_since_step) == ("b", 100, 1)
    assert third.ratio == pytest.approx(1.8, rel=0.01)
    assert table([first, second, third]) == [
        "WORKER  NODE  MEDIAN    P95       RATIO  STEPS  SLOW SINCE",
        "0       a     0.1 s     0.1 s     1.00   100",
        "1       a     0.1001 s  0.1001 s  1.00   100",
        "2       b     0.18 s    0.18 s    1.80   100    step 1",
    ]


def test_a_worker_whose_times_are_unknown_has_none(run: RunDirectory) -> None:
    start(run)
    take(run, range(1, 41), lambda step: [0.1, None if step % 2 else 0.1, None])
    *_, second, third = worker_rows(run)
    assert (second.steps, second.median_s) == (20, 0.1)
    assert (third.steps, third.median_s, third.p95_s, third.ratio) == (0, None, None, None)
    assert table([third])[1].split() == ["2", "b", "0"]


def test_without_a_file_or_steps_there_is_nothing(run: RunDirectory) -> None:
    assert (worker_rows(run), slowest_worker(run)) == ([], None)
    start(run)
    assert (worker_rows(run), slowest_worker(run)) == ([], None)
    take(run, range(1, 3), steady)
    assert len(worker_rows(run)) == 3
    assert slowest_worker(run) is None


def test_only_the_newest_attempt_counts(run: RunDirectory) -> None:
    """Its workers are other processes, on other nodes."""
    start(run)
    take(run, range(1, 31), lambda step: [0.3, 0.1, 0.1])
    straggler(run, 0, since_step=1)
    start(run, step=30, nodes=["c", "d", "e"])
    assert (worker_rows(run), slowest_worker(run)) == ([], None)
    take(run, range(31, 36), lambda step: [0.1, 0.1, 0.1])
    rows = worker_rows(run)
    assert [(row.node, row.steps, row.ratio, row.slow_since_step) for row in rows] == [
        (node, 5, 1.0, None) for node in "cde"
    ]


def test_the_newest_steps_count(run: RunDirectory) -> None:
    start(run)
    take(run, range(1, 31), lambda step: [9.0, 9.0, 9.0])
    take(run, range(31, 31 + MAX_STEPS), lambda step: [0.1, 0.1, 0.1])
    assert [(row.steps, row.median_s, row.p95_s) for row in worker_rows(run)] == [(MAX_STEPS, 0.1, 0.1)] * 3


def test_nodes_of_other_processes_are_not_taken_for_the_workers(run: RunDirectory) -> None:
    start(run, nodes=["a", "b"])
    take(run, range(1, 5), steady)
    assert [row.node for row in worker_rows(run)] == [None] * 3


def test_of_many_workers_a_person_sees_the_slowest() -> None:
    rows = [
        WorkerRow(worker=w, node="a", median_s=0.1, p95_s=0.1, ratio=1 + w / 100, steps=9, slow_since_step=None)
        for w in range(MAX_ROWS + 4)
    ]
    lines = table(rows)
    assert [line.split()[0] for line in lines[1:-1]] == [str(w) for w in reversed(range(4, MAX_ROWS + 4))]
    assert lines[-1] == "and 4 faster workers"
    assert len(table(rows[:MAX_ROWS])) == 1 + MAX_ROWS


def test_the_slowest_worker_of_stretches_that_are_over(run: RunDirectory) -> None:
    """Rank 1 cost 100 * 0.5 + 100 * 0.7 ordinary steps, rank 2 only 300 * 0.25."""
    start(run)
    for worker, since_step, ratio, num_steps in [(1, 100, 1.5, 100), (2, 200, 1.25, 300), (1, 400, 1.7, 100)]:
        straggler(run, worker, since_step)
        over(run, worker, since_step, ratio, num_steps)
    assert slowest_worker(run) == "rank 1 on a, 1.6x the median over 200 steps, and 1 more worker"


def test_a_stretch_that_never_ended_reaches_to_the_last_step(run: RunDirectory) -> None:
    start(run)
    take(run, range(1, 341), steady)
    straggler(run, 2, since_step=1, ratio=1.79)
    assert slowest_worker(run) == "rank 2 on b, 1.8x the median over 340 steps"


def test_the_pace_of_a_stretch_is_that_of_all_its_newest_steps(run: RunDirectory) -> None:
    """The event knows the first 21 steps, at 1.4; the steps after them are at 3."""
    start(run)
    take(run, range(1, 22), lambda step: [0.1, 0.1, 0.14])
    take(run, range(22, 1022), lambda step: [0.1, 0.1, 0.3])
    straggler(run, 2, since_step=1, ratio=1.4)
    assert slowest_worker(run) == "rank 2 on b, 3.0x the median over 1,021 steps"


def test_of_two_workers_the_other_one_is_the_measure(run: RunDirectory) -> None:
    start(run, nodes=["a", "b"])
    straggler(run, 1, since_step=1, ratio=1.3)
    assert slowest_worker(run) == "rank 1 on a, 1.3x the other worker over 21 steps"


@pytest.fixture
def job(spec: Path, storage: Path) -> RunDirectory:
    return prepare(load_spec(spec), storage).run_directory


def test_status_ends_with_the_workers(cli, job: RunDirectory, storage: Path) -> None:
    assert "WORKER" not in cli("status", "tiny", "--storage", storage).out
    assert json.loads(cli("status", "tiny", "--storage", storage, "--json").out)["workers"] == []
    start(job)
    take(job, range(1, 101), steady)
    *_, empty, header, _, _, last = cli("status", "tiny", "--storage", storage).out.splitlines()
    assert (empty, header.split()[:2]) == ("", ["WORKER", "NODE"])
    assert last.split() == ["2", "b", "0.18", "s", "0.18", "s", "1.80", "100"]
    workers = json.loads(cli("status", "tiny", "--storage", storage, "--json").out)["workers"]
    assert [(worker["worker"], worker["node"], worker["steps"]) for worker in workers] == [
        (0, "a", 100),
        (1, "a", 100),
        (2, "b", 100),
    ]
    assert workers[2]["median_s"] == workers[2]["p95_s"] == 0.18
    assert workers[2]["ratio"] == pytest.approx(1.8, rel=0.01)
    assert workers[2]["slow_since_step"] is None


def test_the_result_names_the_slowest_worker_where_there_is_one(run: RunDirectory) -> None:
    state = {"phase": "succeeded", "step": 340}
    assert result_fields(run, state)["slowest worker"] is None
    start(run)
    straggler(run, 2, since_step=1)
    assert result_fields(run, state)["slowest worker"] == "rank 2 on b, 2.0x the median over 21 steps"
