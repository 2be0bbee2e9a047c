"""Writing beside the training: from a copy, one at a time, errors once, and no thread left."""

import threading
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from checkpoint_cases import assert_holds, manifest, pieces_of, store, tensors

from orchestrator.checkpoint.background import CheckpointWriter, HostCopy, Written
from orchestrator.checkpoint.listing import list_checkpoints
from orchestrator.checkpoint.manifest import Manifest
from orchestrator.core.errors import CheckpointError


class Gate:
    """Stands in for the question who owns the job, which is asked when the tensors are on disk."""

    def __init__(self, *, is_open: bool = False) -> None:
        self.asked = threading.Event()
        self.open = threading.Event()
        if is_open:
            self.open.set()

    def __call__(self) -> bool:
        self.asked.set()
        return self.open.wait(60)


def writer_of(folder: Path, *, asynchronous: bool = True) -> tuple[CheckpointWriter, list[Written]]:
    told: list[Written] = []
    return CheckpointWriter(store(folder), asynchronous=asynchronous, on_written=told.append), told


def wait_for_the_thread_to_end() -> None:
    for thread in threading.enumerate():
        if thread.name.startswith("checkpoint"):
            thread.join(60)
            assert not thread.is_alive()


@pytest.mark.parametrize("asynchronous", [True, False])
def test_what_is_written_is_what_was_there_when_save_was_called(tmp_path: Path, asynchronous: bool) -> None:
    writer, told = writer_of(tmp_path, asynchronous=asynchronous)
    live, gate = tensors(1), Gate(is_open=not asynchronous)
    pieces = pieces_of(live)
    said = manifest(1, pieces)
    writer.save(pieces, said, is_current=gate)
    for tensor in live.values():
        tensor.zero_()
    said.controller["size"] = 99
    gate.open.set()
    writer.wait()
    assert_holds(tmp_path / "step_1", 1)
    assert Manifest.read(tmp_path / "step_1").controller == {"size": 1}
    assert [written.step for written in told] == [1]
    assert told[0].path == tmp_path / "step_1"
    assert told[0].pause_s > 0.0
    assert told[0].write_s > 0.0
    wait_for_the_thread_to_end()


def test_the_training_goes_on_while_a_checkpoint_is_written(tmp_path: Path) -> None:
    writer, told = writer_of(tmp_path)
    gate = Gate()
    pieces = pieces_of(tensors(1))
    writer.save(pieces, manifest(1, pieces), is_current=gate)
    assert gate.asked.wait(60)
    writer.poll()
    assert told == []
    assert list_checkpoints(tmp_path) == []
    gate.open.set()
    writer.wait()
    assert [written.step for written in told] == [1]
    writer.wait()
    assert [written.step for written in told] == [1]


def test_the_next_checkpoint_waits_before_it_takes_over_the_copy(tmp_path: Path) -> None:
    """And that wait is part of its pause."""
    writer, told = writer_of(tmp_path)
    gate = Gate()
    first, second = pieces_of(tensors(1)), pieces_of(tensors(2))
    writer.save(first, manifest(1, first), is_current=gate)
    assert gate.asked.wait(60)
    stopped_at = time.perf_counter()
    opener = threading.Timer(0.2, gate.open.set)
    opener.start()
    writer.save(second, manifest(2, second), is_current=lambda: True, since=stopped_at)
    opener.join()
    assert [written.step for written in told] == [1]
    writer.wait()
    assert told[1].pause_s >= 0.2
    assert_holds(tmp_path / "step_1", 1)
    assert_holds(tmp_path / "step_2", 2)


@pytest.mark.parametrize("ask", ["poll", "wait", "save"])
def test_what_goes_wrong_in_the_thread_is_raised_once(tmp_path: Path, ask: str) -> None:
    writer, told = writer_of(tmp_path)
    pieces = pieces_of(tensors(1))
    writer.save(pieces, manifest(1, pieces), is_current=lambda: False)
    wait_for_the_thread_to_end()
    ways = {
        "poll": writer.poll,
        "wait": writer.wait,
        "save": partial(writer.save, pieces, manifest(2, pieces), is_current=lambda: True),
    }
    with pytest.raises(CheckpointError, match="Another attempt"):
        ways[ask]()
    writer.poll()
    writer.wait()
    assert told == []
    writer.save(pieces, manifest(3, pieces), is_current=lambda: True)
    writer.wait()
    assert [written.step for written in told] == [3]


def test_the_copy_reuses_its_memory_and_follows_what_changes_its_form() -> None:
    copy = HostCopy()
    first = copy.take(pieces_of({"a": torch.ones(4), "b": torch.ones(2)}))
    second = copy.take(pieces_of({"a": torch.full((4,), 2.0), "b": torch.ones(3, dtype=torch.bfloat16)}))
    assert first["a"].data.data_ptr() == second["a"].data.data_ptr()
    assert second["a"].data.tolist() == [2.0] * 4
    assert second["b"].data.dtype == torch.bfloat16
    assert second["b"].data.tolist() == [1.0] * 3
