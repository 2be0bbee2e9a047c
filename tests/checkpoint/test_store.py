"""Checkpoints: complete or invisible, readable by any number of ranks, and never a way to run foreign code."""

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from gloo import run_on_ranks

from orchestrator.checkpoint.manifest import Manifest, library_versions
from orchestrator.checkpoint.store import CheckpointStore, latest_checkpoint, list_checkpoints, load_tensors
from orchestrator.core.collectives import Collectives
from orchestrator.core.errors import CheckpointError
from orchestrator.core.values import DataPosition


def manifest(step: int) -> Manifest:
    return Manifest(
        step=step,
        world_size=1,
        spec_hash="abc",
        data=DataPosition(samples=step * 10),
        controller={},
        scaler={},
        versions=library_versions(),
    )


def tensors(step: int) -> dict[str, torch.Tensor]:
    return {
        "model.w": torch.arange(6.0).reshape(2, 3) + step,
        "model.count": torch.tensor(step),
        "optimizer.w.exp_avg": torch.full((2, 3), 0.5, dtype=torch.bfloat16),
    }


def save(folder: Path, step: int, *, keep: int = 2, current: bool = True) -> Path:
    store = CheckpointStore(folder, Collectives(), keep=keep, attempt=1)
    return store.save(tensors(step), manifest(step), is_current=lambda: current)


def test_round_trip_is_bitwise(tmp_path: Path) -> None:
    path = save(tmp_path, 7)
    loaded = load_tensors(path)
    assert loaded.keys() == tensors(7).keys()
    for name, tensor in tensors(7).items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor)
    assert Manifest.read(path) == manifest(7)


def test_the_oldest_are_retired_and_the_latest_is_named(tmp_path: Path) -> None:
    for step in (5, 20, 100):
        save(tmp_path, step)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step_20", "step_100"]
    assert (tmp_path / "LATEST").read_text() == "step_100\n"
    assert latest_checkpoint(tmp_path) == tmp_path / "step_100"


def test_what_a_crash_left_behind_is_not_a_checkpoint_and_is_swept_away(tmp_path: Path) -> None:
    (tmp_path / ".step_50.attempt_1").mkdir()
    (tmp_path / "step_60").mkdir()  # no manifest: never moved into place by us
    save(tmp_path, 10)
    assert latest_checkpoint(tmp_path) == tmp_path / "step_10"
    assert not (tmp_path / ".step_50.attempt_1").exists()


def test_a_leftover_of_an_older_attempt_cannot_publish(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="Another attempt"):
        save(tmp_path, 10, current=False)
    assert list_checkpoints(tmp_path) == []


class Bomb:
    """Unpickling it would make a folder."""

    def __init__(self, target: str) -> None:
        self.target = target

    def __reduce__(self):
        return (os.mkdir, (self.target,))


def test_a_table_that_would_run_code_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    (path / ".metadata").write_bytes(pickle.dumps(Bomb(str(tmp_path / "boom"))))
    with pytest.raises(CheckpointError, match=r"mkdir"):
        load_tensors(path)
    assert not (tmp_path / "boom").exists()


def test_tensor_data_that_would_run_code_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    data = next(path.glob("*.distcp"))
    data.write_bytes(pickle.dumps(Bomb(str(tmp_path / "boom"))).ljust(data.stat().st_size, b"\0"))
    with pytest.raises(CheckpointError):
        load_tensors(path)
    assert not (tmp_path / "boom").exists()


@pytest.mark.parametrize("damage", ["truncate", "empty", "garbage"])
def test_damage_is_one_clear_error(tmp_path: Path, damage: str) -> None:
    path = save(tmp_path, 1)
    table = path / ".metadata"
    table.write_bytes({"truncate": table.read_bytes()[:50], "empty": b"", "garbage": b"\x00garbage"}[damage])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_tensors(path)


def test_a_manifest_of_another_format_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    fields = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**fields, "format": 99}))
    with pytest.raises(CheckpointError, match="format 99"):
        Manifest.read(path)


def save_on_this_rank(folder: str) -> None:
    save(Path(folder), 3)


@pytest.mark.distributed
def test_ranks_share_the_writing_and_one_process_reads_it(tmp_path: Path) -> None:
    run_on_ranks(2, save_on_this_rank, str(tmp_path))
    loaded = load_tensors(tmp_path / "step_3")
    for name, tensor in tensors(3).items():
        assert torch.equal(loaded[name], tensor)


def test_missing_tensor_data_is_one_clear_error(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    next(path.glob("*.distcp")).unlink()
    with pytest.raises(CheckpointError, match="tensors cannot be read"):
        load_tensors(path)
