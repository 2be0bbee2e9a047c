"""The folder of a job's checkpoints: complete or invisible, the latest ones kept, one owner."""

import resource
import signal
from pathlib import Path

import pytest
from checkpoint_cases import assert_holds, manifest, pieces_of, save, store, tensors
from gloo import run_on_ranks

from orchestrator.checkpoint.listing import latest_checkpoint, list_checkpoints
from orchestrator.checkpoint.manifest import Manifest
from orchestrator.checkpoint.saved import SavedCheckpoint
from orchestrator.core.collectives import Collectives
from orchestrator.core.errors import CheckpointError


def test_round_trip_is_bitwise(tmp_path: Path) -> None:
    path = save(tmp_path, 7)
    assert_holds(path, 7)
    assert Manifest.read(path) == manifest(7, pieces_of(tensors(7)))


def test_the_oldest_are_retired_and_the_latest_is_named(tmp_path: Path) -> None:
    for step in (5, 20, 100):
        save(tmp_path, step)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step_20", "step_100"]
    assert (tmp_path / "LATEST").read_text() == "step_100\n"
    assert latest_checkpoint(tmp_path) == tmp_path / "step_100"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["LATEST", "step_100", "step_20"]


def test_what_a_crash_left_behind_is_not_a_checkpoint_and_is_swept_away(tmp_path: Path) -> None:
    (tmp_path / ".step_50.attempt_1").mkdir()
    (tmp_path / ".step_5.removed").mkdir()
    (tmp_path / "step_60").mkdir()  # no manifest: never moved into place by us
    save(tmp_path, 10)
    assert latest_checkpoint(tmp_path) == tmp_path / "step_10"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["LATEST", "step_10", "step_60"]


def test_what_a_newer_attempt_writes_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / ".step_50.attempt_2").mkdir()
    save(tmp_path, 10)
    assert (tmp_path / ".step_50.attempt_2").exists()


def test_a_copy_that_somebody_keeps_beside_is_no_checkpoint(tmp_path: Path) -> None:
    path = save(tmp_path, 10)
    for name in ("step_10.best", "step_", "step_ten"):
        path.rename(tmp_path / name)
        assert list_checkpoints(tmp_path) == []
        with pytest.raises(CheckpointError, match="says that it is of step 10"):
            SavedCheckpoint(tmp_path / name)
        (tmp_path / name).rename(path)


def test_a_folder_in_the_way_is_replaced(tmp_path: Path) -> None:
    save(tmp_path, 10)
    (tmp_path / "step_20").mkdir()
    (tmp_path / "step_20" / "torn").touch()
    path = save(tmp_path, 20)
    assert_holds(path, 20)
    assert not (path / "torn").exists()


def test_a_leftover_of_an_older_attempt_cannot_publish(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="Another attempt"):
        save(tmp_path, 10, current=False)
    assert list_checkpoints(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def save_without_right(folder: str) -> str:
    try:
        save(Path(folder), 1, current=Collectives().rank == 1)
    except CheckpointError as error:
        return str(error)
    return "no error"


@pytest.mark.distributed
def test_every_rank_learns_that_the_first_may_not_write(tmp_path: Path) -> None:
    for message in run_on_ranks(2, save_without_right, str(tmp_path)):
        assert "Another attempt" in message


def save_where_one_rank_cannot(folder: str) -> str:
    """The disk of the second rank takes no files larger than one kilobyte."""
    if Collectives().rank == 1:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, resource.RLIM_INFINITY))
    try:
        save(Path(folder), 1)
    except CheckpointError as error:
        return str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return "no error"


@pytest.mark.distributed
def test_every_rank_learns_that_one_could_not_write(tmp_path: Path) -> None:
    for message in run_on_ranks(2, save_where_one_rank_cannot, str(tmp_path)):
        assert "the tensors cannot be written (rank 1: OSError: [Errno 27] File too large" in message
    assert list(tmp_path.iterdir()) == []


def test_a_failure_to_write_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file in the way")
    with pytest.raises(CheckpointError, match=r"checkpoints: (NotADirectoryError|FileExistsError): \[Errno"):
        save(tmp_path / "checkpoints", 1)


def test_pieces_that_leave_something_out_are_not_published(tmp_path: Path) -> None:
    pieces = pieces_of(tensors(1))
    for part, message in [
        (pieces["model.large"].part(0, 100), "'model.large' end at element 100"),
        (pieces["model.large"].part(100, 196609), "'model.large' do not follow each other at element 0"),
        (None, "'model.large' are not in both"),
    ]:
        written = {name: piece for name, piece in pieces.items() if name != "model.large"}
        if part is not None:
            written["model.large"] = part
        with pytest.raises(CheckpointError, match=message):
            store(tmp_path).save(written, manifest(1, pieces), is_current=lambda: True)
    assert list(tmp_path.iterdir()) == []
