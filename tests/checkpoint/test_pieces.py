"""Pieces: any division of the tensors is written once, and read by any other number of ranks."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from checkpoint_cases import assert_holds, manifest, pieces_of, save, share, store, tensors, zeros_like
from gloo import run_on_ranks
from torch import Tensor

from orchestrator.checkpoint.saved import SavedCheckpoint
from orchestrator.core.collectives import Collectives
from orchestrator.core.errors import CheckpointError
from orchestrator.core.shards import SMALL_TENSOR, Piece, piece_of, to_write

STEP = 3


def run_of(tensor: Tensor, start: int, stop: int) -> Piece:
    """Elements of a whole tensor as a rank that holds only them shows them."""
    return Piece(data=tensor.flatten()[start:stop].clone(), start=start, shape=tuple(tensor.shape))


def divide(whole: Mapping[str, Tensor], rank: int, world_size: int) -> dict[str, Piece]:
    """Runs of very different lengths, many of them empty; one tensor on all ranks, one on the last alone."""
    pieces: dict[str, Piece] = {}
    for name, tensor in whole.items():
        ends = [tensor.numel() * part**2 // world_size**2 for part in (rank, rank + 1)]
        pieces[name] = run_of(tensor, *ends)
    pieces["model.image"] = piece_of(whole["model.image"])
    last = whole["optimizer.w.exp_avg"]
    pieces["optimizer.w.exp_avg"] = run_of(last, 0, last.numel() if rank == world_size - 1 else 0)
    return pieces


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 5])
def test_ranks_that_hold_the_same_write_every_element_once(world_size: int) -> None:
    whole = {**tensors(STEP), **{f"small.{index}": torch.full((7,), float(index)) for index in range(10)}}
    whole["model.at_the_limit"] = torch.ones(SMALL_TENSOR)
    written = [to_write(pieces_of(whole), rank, world_size) for rank in range(world_size)]
    for name, tensor in whole.items():
        count = torch.zeros(tensor.numel())
        for pieces in written:
            piece = pieces[name]
            count[piece.start : piece.start + len(piece.data)] += 1
            assert torch.equal(piece.data, tensor.flatten()[piece.start : piece.start + len(piece.data)])
        assert (count == 1).all(), name
    totals = [sum(len(piece.data) for piece in pieces.values()) for pieces in written]
    assert max(totals) <= sum(totals) / world_size + 100
    assert all(sum(len(piece.data) > 0 for piece in pieces.values()) > 1 for pieces in written)


def test_what_one_rank_alone_holds_is_written_by_it() -> None:
    piece = run_of(torch.arange(5.0), 2, 4)
    assert to_write({"a": piece}, 1, 3) == {"a": piece}


def write_divided(folder: str) -> None:
    collectives = Collectives()
    pieces = divide(tensors(STEP), collectives.rank, collectives.world_size)
    store(Path(folder)).save(share(pieces), manifest(STEP, pieces), is_current=lambda: True)


def read_divided(path: str) -> dict[str, tuple[int, Tensor]]:
    collectives = Collectives()
    pieces = divide(zeros_like(tensors(STEP)), collectives.rank, collectives.world_size)
    SavedCheckpoint(Path(path)).read(pieces)
    return {name: (piece.start, piece.data) for name, piece in pieces.items()}


@pytest.mark.distributed
def test_three_ranks_write_what_one_two_and_four_read(tmp_path: Path) -> None:
    run_on_ranks(3, write_divided, str(tmp_path))
    path = tmp_path / f"step_{STEP}"
    assert {file.name for file in path.glob("*.distcp")} == {"__0_0.distcp", "__1_0.distcp", "__2_0.distcp"}
    assert_holds(path, STEP)
    for world_size in (2, 4):
        read = run_on_ranks(world_size, read_divided, str(path))
        for name, tensor in tensors(STEP).items():
            whole = torch.zeros(tensor.numel(), dtype=tensor.dtype)
            for start, data in (pieces[name] for pieces in read):
                whole[start : start + len(data)] = data
            assert torch.equal(whole, tensor.flatten()), name


def save_replicas(folder: str) -> None:
    save(Path(folder), STEP)


@pytest.mark.distributed
def test_ranks_share_the_writing_and_one_process_reads_it(tmp_path: Path) -> None:
    run_on_ranks(2, save_replicas, str(tmp_path))
    path = tmp_path / f"step_{STEP}"
    assert_holds(path, STEP)
    first, second = (file.stat().st_size for file in sorted(path.glob("*.distcp")))
    assert 0.9 < first / second < 1.1


def write_from_the_second_rank_only(folder: str) -> None:
    whole, rank = tensors(STEP), Collectives().rank
    pieces = {name: run_of(tensor, 0, tensor.numel() * rank) for name, tensor in whole.items()}
    store(Path(folder)).save(share(pieces), manifest(STEP, pieces), is_current=lambda: True)


@pytest.mark.distributed
def test_a_rank_may_have_nothing_to_write(tmp_path: Path) -> None:
    run_on_ranks(2, write_from_the_second_rank_only, str(tmp_path))
    assert_holds(tmp_path / f"step_{STEP}", STEP)


def write_with_a_gap(folder: str) -> str:
    tensor, rank = torch.arange(10.0), Collectives().rank
    pieces = {"model.w": run_of(tensor, 6 * rank, 5 + 5 * rank)}
    try:
        store(Path(folder)).save(pieces, manifest(STEP, pieces), is_current=lambda: True)
    except CheckpointError as error:
        return str(error)
    return "no error"


@pytest.mark.distributed
def test_ranks_that_leave_a_gap_learn_it(tmp_path: Path) -> None:
    assert all("cannot be written" in message for message in run_on_ranks(2, write_with_a_gap, str(tmp_path)))
    assert list(tmp_path.iterdir()) == []


def test_weights_are_the_recipes_own_with_tied_names(tmp_path: Path) -> None:
    saved = SavedCheckpoint(save(tmp_path, STEP, tied={"also.w": "w"}))
    weights = saved.weights()
    expected = {name.removeprefix("model."): t for name, t in tensors(STEP).items() if name.startswith("model.")}
    assert weights.keys() == {*expected, "also.w"}
    for name, tensor in {**expected, "also.w": expected["w"]}.items():
        assert weights[name].shape == tensor.shape
        assert weights[name].dtype == tensor.dtype
        assert torch.equal(weights[name], tensor)
    assert weights["also.w"].data_ptr() != weights["w"].data_ptr()


def test_plain_torch_reads_a_checkpoint_as_the_documentation_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "runs" / "first" / "checkpoints", 200)
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[2] / "docs" / "checkpoints.md").read_text(encoding="utf-8")
    names: dict[str, dict[str, Tensor]] = {}
    exec(page.partition("```python\n")[2].partition("```")[0], names)
    assert names["state"].keys() == tensors(200).keys()
    for name, tensor in tensors(200).items():
        assert torch.equal(names["state"][name], tensor), name
    assert names["weights"].keys() == {name[6:] for name in tensors(200) if name.startswith("model.")}
