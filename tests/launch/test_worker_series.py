"""Means of workers' times over stretches of steps, compared with plain means."""

from pathlib import Path

import numpy as np
import pytest

from orchestrator.core.worker_times import StepTimes, encode_step
from orchestrator.launch.worker_series import read_worker_series


def write(path: Path, rows: list[tuple[int, list[float | None]]]) -> Path:
    path.write_bytes(b"".join(encode_step(StepTimes(step, row, [None] * len(row))) for step, row in rows))
    return path


def test_each_stretch_has_the_mean_of_what_is_known_in_it(tmp_path: Path) -> None:
    rows = [(step, [0.1 * step, None if step % 2 else 1.0]) for step in range(1, 11)]
    found = read_worker_series(write(tmp_path / "times.jsonl", rows), num_stretches=5)
    assert found is not None
    assert (found.steps.tolist(), found.steps_per_stretch) == ([2, 4, 6, 8, 10], 2)
    # Step 1 is no sample of the others.
    assert found.seconds[0] == pytest.approx([0.2, 0.35, 0.55, 0.75, 0.95])
    assert found.seconds[1] == pytest.approx([1.0] * 5)


def test_a_worker_of_one_attempt_only_is_unknown_in_the_others(tmp_path: Path) -> None:
    rows: list[tuple[int, list[float | None]]] = [(2, [1.0, 2.0, 3.0]), (3, [1.0, 2.0, 3.0]), (4, [4.0])]
    found = read_worker_series(write(tmp_path / "times.jsonl", rows))
    assert found is not None
    assert found.steps.tolist() == [2, 3, 4]
    assert found.seconds[0].tolist() == [1.0, 1.0, 4.0]
    assert np.isnan(found.seconds[1:, 2]).all()
    assert found.seconds[1:, 0].tolist() == [2.0, 3.0]


@pytest.mark.parametrize("rows", [[], [(1, [1.0])], [(2, [None, None])]])
def test_nothing_known_is_nothing(rows: list[tuple[int, list[float | None]]], tmp_path: Path) -> None:
    assert read_worker_series(write(tmp_path / "times.jsonl", rows)) is None
