"""A damaged or foreign checkpoint is one clear error, and never a way to run code."""

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_cases import assert_holds, pieces_of, save, tensors, zeros_like

from orchestrator.checkpoint.manifest import Manifest
from orchestrator.checkpoint.safe_reader import read_table
from orchestrator.checkpoint.saved import SavedCheckpoint
from orchestrator.core.errors import CheckpointError
from orchestrator.core.shards import piece_of


def load(path: Path) -> dict[str, torch.Tensor]:
    live = zeros_like(tensors(1))
    SavedCheckpoint(path).read(pieces_of(live))
    return live


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
        load(path)
    assert not (tmp_path / "boom").exists()


def test_tensor_data_that_would_run_code_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    data = next(path.glob("*.distcp"))
    data.write_bytes(pickle.dumps(Bomb(str(tmp_path / "boom"))).ljust(data.stat().st_size, b"\0"))
    with pytest.raises(CheckpointError, match="tensors cannot be read"):
        load(path)
    assert not (tmp_path / "boom").exists()


@pytest.mark.parametrize("damage", ["truncate", "empty", "garbage", "remove", "not a table"])
def test_damage_of_the_table_is_one_clear_error(tmp_path: Path, damage: str) -> None:
    path = save(tmp_path, 1)
    table = path / ".metadata"
    damaged = {"truncate": table.read_bytes()[:50], "empty": b"", "garbage": b"\x00garbage"}
    damaged["not a table"] = pickle.dumps([1, 2])
    if damage == "remove":
        table.unlink()
    else:
        table.write_bytes(damaged[damage])
    with pytest.raises(CheckpointError, match="table of contents"):
        load(path)


def test_a_table_cut_off_anywhere_is_one_clear_error(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    table = path / ".metadata"
    whole = table.read_bytes()
    for length in range(0, len(whole), 23):
        table.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="table of contents"):
            load(path)


def test_a_table_with_any_byte_changed_never_gives_other_weights(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    table = path / ".metadata"
    whole = table.read_bytes()
    for index in range(0, len(whole), 31):
        table.write_bytes(whole[:index] + bytes([whole[index] ^ 0x15]) + whole[index + 1 :])
        try:
            assert_holds(path, 1)
        except CheckpointError:
            continue


def test_missing_tensor_data_is_one_clear_error(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    next(path.glob("*.distcp")).unlink()
    with pytest.raises(CheckpointError, match="tensors cannot be read"):
        load(path)


def test_tensor_data_cut_off_is_one_clear_error(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    data = next(path.glob("*.distcp"))
    os.truncate(data, data.stat().st_size - 1000)
    with pytest.raises(CheckpointError, match="tensors cannot be read"):
        load(path)


def test_a_table_that_leaves_elements_out_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    table = read_table(path)
    table.state_dict_metadata["model.w"].chunks.clear()
    (path / ".metadata").write_bytes(pickle.dumps(table))
    with pytest.raises(CheckpointError, match=r"'model.w' end at element 0 of 6"):
        load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "checkpoint format 2 is not the format 3 of this version"),
        ({"format": 99}, "checkpoint format 99"),
        ({"step": 2}, "says that it is of step 2"),
        ({"unknown": 2}, "manifest cannot be read"),
        ({"data": None}, "manifest cannot be read"),
        ({"shapes": {}}, "'model.count' are not in both the manifest and the table of contents"),
    ],
)
def test_a_manifest_of_something_else_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = save(tmp_path, 1)
    fields = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**fields, **change}))
    with pytest.raises(CheckpointError, match=message):
        SavedCheckpoint(path)


@pytest.mark.parametrize("text", ["", "{", "[]", '"text"', "{}"])
def test_a_damaged_manifest_is_one_clear_error(tmp_path: Path, text: str) -> None:
    path = save(tmp_path, 1)
    (path / "manifest.json").write_text(text)
    with pytest.raises(CheckpointError, match="manifest cannot be read"):
        Manifest.read(path)


def test_another_model_is_refused_by_name(tmp_path: Path) -> None:
    saved = SavedCheckpoint(save(tmp_path, 1))
    live = zeros_like(tensors(1))
    more = pieces_of({**live, "model.more": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"lacks 'model.more', which this training has"):
        saved.read(more)
    less = {name: piece for name, piece in pieces_of(live).items() if name != "model.w"}
    with pytest.raises(CheckpointError, match=r"holds 'model.w', which this training does not have"):
        saved.read(less)
    other = {**pieces_of(live), "model.w": piece_of(torch.zeros(3, 2))}
    with pytest.raises(CheckpointError, match=r"'model.w' has the shape \(2, 3\), this training's is \(3, 2\)"):
        saved.read(other)
    assert all(not tensor.any() for tensor in live.values())
