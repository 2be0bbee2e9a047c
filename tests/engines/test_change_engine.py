"""A job goes on under another engine and on another number of workers as if nothing had happened."""

from pathlib import Path

import pytest
from engines.test_equal import ENGINES
from engines.training import AWKWARD, MLP, engine_spec, largest_difference, prepare, run_cases

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(600)]
NAMES = ("ddp", "fsdp2", "zero 2", "zero 3", "accelerate fsdp2")


def test_every_pair_of_engines_on_two_then_three_workers(tmp_path: Path) -> None:
    whole = prepare(tmp_path / "whole", engine_spec({"name": "ddp"}, 1))
    run_cases(1, [(whole, 20)])
    first = {name: prepare(tmp_path / name, engine_spec(ENGINES[name], 2)) for name in NAMES}
    run_cases(2, [(directory, 10) for directory in first.values()])
    second = {
        f"{before} -> {after}": prepare(
            tmp_path / f"{before} then {after}",
            engine_spec(ENGINES[after], 3),
            checkpoint=first[before].checkpoints / "step_10",
        )
        for before in NAMES
        for after in NAMES
    }
    metrics = run_cases(3, [(directory, 20) for directory in second.values()])
    assert {lines[0]["step"] for lines in metrics} == {11}
    differences = {title: largest_difference(whole, directory) for title, directory in second.items()}
    assert differences == pytest.approx(dict.fromkeys(second, 0.0), abs=1e-5)


@pytest.mark.parametrize("engine", ["fsdp2", "zero 3"])
def test_two_then_four_then_three_workers(tmp_path: Path, engine: str) -> None:
    whole = prepare(tmp_path / "whole", engine_spec({"name": "ddp"}, 1, MLP))
    run_cases(1, [(whole, 15)])
    checkpoint = None
    for world_size, until in ((2, 5), (4, 10), (3, 15)):
        directory = prepare(
            tmp_path / str(world_size), engine_spec(ENGINES[engine], world_size, MLP), checkpoint=checkpoint
        )
        run_cases(world_size, [(directory, until)])
        checkpoint = directory.checkpoints / f"step_{until}"
    assert largest_difference(whole, directory) == pytest.approx(0.0, abs=1e-5)


def test_tied_and_frozen_parameters_change_engines(tmp_path: Path) -> None:
    whole = prepare(tmp_path / "whole", engine_spec({"name": "ddp"}, 1, AWKWARD))
    run_cases(1, [(whole, 18)])
    checkpoint = None
    chain = (
        ("zero 3, offloaded in sub-groups", 3, 3),
        ("zero 0", 2, 6),
        ("zero 1", 3, 9),
        ("zero 2, offloaded", 2, 12),
        ("zero 3, offloaded in sub-groups", 2, 15),
        ("fsdp2", 3, 18),
    )
    for index, (name, world_size, until) in enumerate(chain):
        directory = prepare(
            tmp_path / str(index), engine_spec(ENGINES[name], world_size, AWKWARD), checkpoint=checkpoint
        )
        run_cases(world_size, [(directory, until)])
        checkpoint = directory.checkpoints / f"step_{until}"
    assert largest_difference(whole, directory) == pytest.approx(0.0, abs=1e-5)
