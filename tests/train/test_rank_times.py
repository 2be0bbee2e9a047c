"""Each rank's own time: what is measured, how it comes together in the recorder's message, and who is named."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from gloo import run_on_ranks
from support import ListTracker, context_here, job_here, make_run_directory, tiny_spec, train_here, train_on

from orchestrator.core.collectives import Collectives
from orchestrator.core.run_directory import RunDirectory, read_json_lines
from orchestrator.core.worker_watch import WorkerWatch
from orchestrator.spec.load import load_recipe_job
from orchestrator.train import rank_times
from orchestrator.train.assemble import assemble
from orchestrator.train.loop import train
from orchestrator.train.phases import train_phases
from orchestrator.train.rank_times import GpuSpan, RankTimes, num_elements
from orchestrator.train.recorder import Recorder

SLOW = {"target": "slow.py:SlowRank", "args": {"slow_rank": 1, "first": 11, "last": 50}}


def lines(directory: RunDirectory) -> list[dict[str, Any]]:
    return list(read_json_lines(directory.worker_times_file))


def test_elements_of_tensors_wherever_they_are() -> None:
    tensor = torch.zeros(3, 4)
    assert num_elements(tensor) == 12
    assert num_elements({"image": tensor, "more": [tensor, (tensor, "text", 5)], "name": "x"}) == 36
    assert num_elements(None) == 0


class NumberedSpan:
    """Takes a number of seconds that only its rank and its turn decide."""

    num_made = 0

    def __init__(self) -> None:
        NumberedSpan.num_made += 1
        self._number = NumberedSpan.num_made

    def stop(self) -> None:
        pass

    def seconds(self) -> float:
        rank = Collectives().rank
        return float("nan") if (rank, self._number) == (1, 3) else rank + self._number / 100


def record_steps(root: str, device: str) -> list[dict[str, Any]]:
    """Record five steps on every rank; rank 0 returns its tracker's lines."""
    NumberedSpan.num_made = 0
    rank_times.HostSpan = rank_times.GpuSpan = NumberedSpan  # type: ignore[misc,assignment]
    collectives, tracker = Collectives(), ListTracker()
    nodes = ["here"] * collectives.world_size
    watch = WorkerWatch(RunDirectory(root), tracker, nodes, last_step=0) if collectives.rank == 0 else None
    times = RankTimes(collectives, torch.device(device), watch, works_alone=True)
    recorder = Recorder(
        tracker, collectives, log_every=1, stop_requested=lambda: False, tolerate_overflow=False, times=times
    )
    for step in range(1, 6):
        times.start(step)
        for _ in range(step):
            times.count({"image": torch.zeros(collectives.rank + 1, 8)})
        times.stop()
        recorder.record(step, {"loss": torch.tensor(0.5), "accuracy": torch.tensor(0.25)}, {"lr": 0.1})
    recorder.flush(always=True)
    return tracker.lines


@pytest.mark.distributed
@pytest.mark.parametrize(("device", "last_step"), [("cpu", 5), ("cuda", 4)])
def test_one_message_brings_all_ranks_times_together(tmp_path: Path, device: str, last_step: int) -> None:
    """On a GPU each step's times travel with the next step's message; here the device is only a name."""
    on_ranks = run_on_ranks(3, record_steps, str(tmp_path), device)
    assert [line["step"] for line in on_ranks[0]] == [1, 2, 3, 4, 5]
    assert all(line["loss"] == 1.5 and line["accuracy"] == 0.75 and line["lr"] == 0.1 for line in on_ranks[0])
    assert all(line["slowest_worker_ratio"] >= 1 for line in on_ranks[0][1:])
    assert "slowest_worker_ratio" not in on_ranks[1][0]
    expected = [
        {
            "step": step,
            "seconds": [step / 100, None if step == 3 else 1 + step / 100, 2 + step / 100],
            "elements": [8 * step, 16 * step, 24 * step],
        }
        for step in range(1, last_step + 1)
    ]
    assert lines(RunDirectory(tmp_path)) == expected


def test_a_recorder_without_times_records_none(tmp_path: Path) -> None:
    tracker = ListTracker()
    recorder = Recorder(tracker, Collectives(), log_every=1, stop_requested=lambda: False, tolerate_overflow=False)
    recorder.record(1, {"loss": torch.tensor(0.5)}, {})
    recorder.flush()
    assert tracker.lines == [{"step": 1, "loss": 0.5}]


def test_waiting_for_the_step_before_and_after_is_not_the_ranks_own_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here data, buffers and the exchange sleep 20 ms each, as where they wait for other ranks, and the loss 5 ms."""
    sleepy = {"target": "tiny.py:Digits", "args": {"sleep_s": 0.005}}
    directory = make_run_directory(tmp_path / "run", tiny_spec(recipe=sleepy))
    tracker = ListTracker()
    job = job_here(str(directory.root), tracker)
    for owner, name in [(job.data, "step"), (job.engine, "begin_step"), (job.engine, "step")]:
        monkeypatch.setattr(owner, name, slowly(getattr(owner, name)))
    train(job)
    found = lines(directory)
    assert [line["step"] for line in found] == list(range(1, 7))
    assert all(line["elements"] == [48 * (64 + 1 + 1)] for line in found)  # pixels, label and id
    for line, metrics in zip(found[1:], tracker.lines[1:], strict=True):
        (seconds,) = line["seconds"]
        assert 0.005 <= seconds <= metrics["step_s"] - 0.06


def slowly(function: Any) -> Any:
    def slow(*arguments: Any) -> Any:
        time.sleep(0.02)
        return function(*arguments)

    return slow


def test_one_process_records_its_times_and_no_ratio(tmp_path: Path) -> None:
    directory = make_run_directory(tmp_path / "run", tiny_spec())
    _, metrics = train_here(str(directory.root))
    assert [line["step"] for line in lines(directory)] == [1, 2, 3, 4, 5, 6]
    assert all("slowest_worker_ratio" not in line for line in metrics)


def test_a_resumed_job_has_each_step_once_over_phases(tmp_path: Path) -> None:
    """Killed after step 8, resumed from the checkpoint of step 6, which the file knew to be written before it."""
    sections: dict[str, Any] = {"checkpoint": {"every": 3, "keep": 9}, "then": [{"train": {"steps": 4}}]}
    directory = make_run_directory(tmp_path / "run", tiny_spec(**sections))
    train_here(str(directory.root))
    assert [line["step"] for line in lines(directory)] == list(range(1, 11))
    before = lines(directory)
    for step in (9, 10):
        shutil.rmtree(directory.checkpoints / f"step_{step}")
    train_here(str(directory.root))
    after = lines(directory)
    assert [line["step"] for line in after] == list(range(1, 11))
    assert after[:6] == before[:6]
    assert [line["seconds"] for line in after[6:]] != [line["seconds"] for line in before[6:]]


def test_the_lines_of_a_checkpoints_steps_are_in_the_file_when_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.core.worker_times.MAX_BUFFERED_S", 1e9)
    directory = make_run_directory(tmp_path / "run", tiny_spec(checkpoint={"every": 2, "keep": 9}))
    job = job_here(str(directory.root), ListTracker())
    save, seen = job.saver.save, []

    def look_and_save(step: int) -> None:
        seen.append([line["step"] for line in lines(directory)])
        save(step)

    monkeypatch.setattr(job.saver, "save", look_and_save)
    train(job)
    assert seen == [[1, 2], [1, 2, 3, 4], [1, 2, 3, 4, 5, 6]]


def train_and_tell(root: str) -> list[tuple[str, dict[str, Any]]]:
    context, tracker = context_here(root), ListTracker()
    train_phases(assemble(load_recipe_job(context.run_directory.resolved_spec), context, tracker), context, tracker)
    return [event for event in tracker.events if event[0].startswith("straggler")]


@pytest.mark.distributed
@pytest.mark.parametrize("workers", [2, 3])
def test_a_rank_that_is_slow_for_a_while_is_named_and_nobody_else(tmp_path: Path, workers: int) -> None:
    """10 ms per loss, and 40 ms on rank 1 from step 11 to 50; the others wait for it in the exchange."""
    directory = make_run_directory(
        tmp_path / "run", tiny_spec(recipe=SLOW, train={"steps": 70}, resources={"workers": workers})
    )
    events = run_on_ranks(workers, train_and_tell, str(directory.root))
    assert events[1:] == [[]] * (workers - 1)
    (name, slow), (name_of_end, over) = events[0]
    assert (name, name_of_end) == ("straggler", "straggler_over")
    assert (slow["worker"], slow["node"], over["worker"]) == (1, "here", 1)
    assert slow["since_step"] == over["since_step"]
    assert 6 <= slow["since_step"] <= 15
    assert slow["ratio"] > 1.5
    assert over["num_steps"] >= 40
    found = lines(directory)
    assert [line["step"] for line in found] == list(range(1, 71))
    assert {len(line["seconds"]) for line in found} == {workers}
    share = 48 // workers * (64 + 1 + 1)
    assert all(line["elements"] == [share] * workers for line in found)
    assert all(line["seconds"][1] >= 0.04 for line in found[10:50])


@pytest.mark.distributed
@pytest.mark.parametrize("engine", ["ddp", "fsdp2"])
def test_where_ranks_wait_for_each_other_in_the_forward_their_own_time_is_unknown(tmp_path: Path, engine: str) -> None:
    directory = make_run_directory(tmp_path / "run", tiny_spec(engine={"name": engine}, resources={"workers": 2}))
    _, metrics = train_on(2, directory)[0]
    found = lines(directory)
    assert [line["step"] for line in found] == list(range(1, 7))
    assert [line["elements"] for line in found] == [[24 * (64 + 1 + 1)] * 2] * 6
    assert all((seconds is None) == (engine == "fsdp2") for line in found for seconds in line["seconds"])
    assert all(("slowest_worker_ratio" in line) == (engine == "ddp") for line in metrics)


@pytest.mark.distributed
def test_fewer_workers_go_on_in_the_same_file(tmp_path: Path) -> None:
    sections: dict[str, Any] = {"train": {"steps": 4}, "checkpoint": {"every": 2}}
    directory = make_run_directory(tmp_path / "run", tiny_spec(resources={"workers": 2}, **sections))
    train_on(2, directory)
    shutil.rmtree(directory.checkpoints / "step_4")
    train_here(str(directory.root))
    assert [len(line["seconds"]) for line in lines(directory)] == [2, 2, 1, 1]
    assert [line["step"] for line in lines(directory)] == [1, 2, 3, 4]


class FakeEvent:
    """A CUDA event whose GPU is as far as the test says."""

    now_ms = 0.0
    reached_ms = 0.0

    def __init__(self, *, enable_timing: bool) -> None:
        assert enable_timing
        self.at_ms = 0.0

    def record(self) -> None:
        self.at_ms = FakeEvent.now_ms

    def query(self) -> bool:
        return self.at_ms <= FakeEvent.reached_ms

    def elapsed_time(self, end: "FakeEvent") -> float:
        return end.at_ms - self.at_ms


def test_a_gpus_time_is_unknown_until_it_is_past_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(FakeEvent, "now_ms", 100.0)
    monkeypatch.setattr(FakeEvent, "reached_ms", 150.0)
    span = GpuSpan()
    FakeEvent.now_ms = 350.0
    span.stop()
    assert json.dumps(span.seconds()) == "NaN"
    FakeEvent.reached_ms = 350.0
    assert span.seconds() == 0.25


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_times_of_a_gpu_are_its_own_and_nobody_waits_for_them(tmp_path: Path) -> None:
    """Each step multiplies matrices for far longer than it takes to ask for it."""
    device = torch.device("cuda")
    watch = WorkerWatch(RunDirectory(tmp_path), ListTracker(), ["here"], last_step=0)
    times = RankTimes(Collectives(), device, watch, works_alone=True)
    matrix = torch.randn(4096, 4096, device=device)
    loss = torch.zeros(1, dtype=torch.float64, device=device)
    asked_s = []
    for step in range(1, 5):
        torch.cuda.synchronize()  # as the recorder does, a step late, when it reads the message before
        torch.cuda.set_sync_debug_mode("error")
        started = time.perf_counter()
        times.start(step)
        for _ in range(20):
            matrix @ matrix
        times.stop()
        asked_s.append(time.perf_counter() - started)
        message = times.message(like=loss)
        torch.cuda.set_sync_debug_mode("default")
        times.read(message.tolist())
    times.flush()
    found = lines(RunDirectory(tmp_path))
    assert [line["step"] for line in found] == [1, 2, 3]
    assert all(line["seconds"][0] > 2 * asked_s[line["step"] - 1] for line in found[1:])
