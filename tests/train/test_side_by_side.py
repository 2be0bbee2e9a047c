"""Trainings of a sweep at the same time: who diverges ends alone, and is named when all have ended."""

from __future__ import annotations

from typing import Any

import pytest
from support import tiny_spec

from orchestrator.core.errors import DataError, DivergedError
from orchestrator.train.shard import _joined, train_side_by_side

SPEC = tiny_spec(
    exchange={"name": "coded"},
    resources={"workers": 2},
    sweep={"zip": {"optimizer.lr": [0.1, 1e9, 0.2], "train.steps": [8, 6, 7]}},
)


def finishing(step: int, outcome: str = "finished") -> Any:
    return lambda: {"outcome": outcome, "step": step}


def failing(error: Exception) -> Any:
    def run() -> dict[str, Any]:
        raise error

    return run


def test_who_diverges_is_noted_and_named() -> None:
    noted: list[tuple[int, str]] = []
    results, diverged = train_side_by_side(
        [finishing(8), failing(DivergedError("The loss is nan at step 2.")), finishing(7)],
        lambda *note: noted.append(note),
    )
    assert sorted(result["step"] for result in results) == [7, 8]
    assert noted == [(1, "The loss is nan at step 2.")]
    with pytest.raises(
        DivergedError,
        match=r"^1 of 3 trials diverged: trial 1 \(optimizer.lr = 1000000000.0, train.steps = 6\): The loss is nan at",
    ):
        _joined(SPEC, results, diverged)


def test_a_stop_can_be_continued_also_beside_one_that_diverged() -> None:
    results, diverged = train_side_by_side(
        [finishing(3, "stopped"), failing(DivergedError("")), finishing(4, "stopped")], None
    )
    assert _joined(SPEC, results, diverged) == {"outcome": "stopped", "step": 3}


def test_any_other_failure_ends_all() -> None:
    with pytest.raises(DataError, match="no such column"):
        train_side_by_side([finishing(8), failing(DataError("no such column"))], None)
