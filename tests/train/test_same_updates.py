"""Regime adaptation: a larger batch trains as many updates, at the same rates, as the batch it is compared with."""

from pathlib import Path
from typing import Any

import pytest
from support import make_run_directory, tiny_spec, train_on

RECIPE = {"target": "tiny.py:Digits", "args": {"num_train": 96}}
SCHEDULE = {"name": "polynomial", "warmup": {"epochs": 0.5}}


def lines_of(root: Path, size: int, **sections: Any) -> list[dict[str, Any]]:
    spec = tiny_spec(
        recipe=RECIPE,
        train={"epochs": 1},
        batch={"global_size": size},
        schedule=SCHEDULE,
        scaling={"same_updates": True, "reference_batch": 16},
        **sections,
    )
    outcome, lines = train_on(1, make_run_directory(root, spec))[0]
    assert outcome == "finished"
    return lines


def test_updates_and_rates_are_those_of_the_small_batch(tmp_path: Path) -> None:
    small, large = lines_of(tmp_path / "small", 16), lines_of(tmp_path / "large", 48)
    assert [line["step"] for line in large] == [line["step"] for line in small] == [1, 2, 3, 4, 5, 6]
    assert (small[-1]["samples"], large[-1]["samples"]) == (96, 288)
    assert [line["lr"] for line in large] == pytest.approx([line["lr"] for line in small])


def test_a_batch_that_is_no_multiple_takes_a_little_more(tmp_path: Path) -> None:
    """40 / 16 is rounded up to 3: 288 samples are 7 steps of 40 and one of 8."""
    lines = lines_of(tmp_path / "run", 40)
    assert (len(lines), lines[-1]["samples"], lines[-1]["global_size"]) == (8, 288, 8)


def test_later_phases_have_the_updates_of_the_small_batch_too(tmp_path: Path) -> None:
    later = [{"train": {"epochs": 1}, "optimizer": {"lr": 0.01}, "schedule": {"name": "constant"}}]
    lines = lines_of(tmp_path / "run", 48, then=later)
    assert [line["samples"] for line in lines][-1] == 2 * 288
    assert len(lines) == 12
