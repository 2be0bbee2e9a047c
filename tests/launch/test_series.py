"""Columns of metrics.jsonl for pictures, compared with the whole file read plainly."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.launch import series as series_module
from orchestrator.launch.series import read_series, thinned


def write(path: Path, rows: list[dict[str, Any]], tail: bytes = b"") -> Path:
    path.write_bytes("".join(json.dumps(row) + "\n" for row in rows).encode() + tail)
    return path


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are read in many pieces."""
    monkeypatch.setattr(series_module, "BLOCK_BYTES", 2000)


def test_a_short_file_is_kept_as_it_is(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"step": step, "time": 5.0, "loss": 1 / step} for step in range(1, 8)]
    rows[3]["eval/loss"] = 0.5
    found = read_series(write(tmp_path / "metrics.jsonl", rows))
    assert list(found) == ["time", "loss", "eval/loss"]
    assert found["loss"].steps.tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert found["loss"].values.tolist() == [1 / step for step in range(1, 8)]
    assert (found["eval/loss"].steps.tolist(), found["eval/loss"].values.tolist()) == ([4], [0.5])


@pytest.mark.usefixtures("small_blocks")
def test_no_spike_is_lost_in_a_long_file(tmp_path: Path) -> None:
    num_steps, num_stretches = 5000, 20
    losses = np.random.default_rng(0).normal(size=num_steps)
    losses[1234], losses[4321] = 1e6, -1e6
    rows = [{"step": step + 1, "loss": loss} for step, loss in enumerate(losses)]
    loss = read_series(write(tmp_path / "metrics.jsonl", rows), num_stretches=num_stretches)["loss"]
    assert loss.num_logged == num_steps
    assert len(loss.steps) <= 2 * num_stretches + 2
    assert (np.diff(loss.steps) > 0).all()
    assert (loss.values == losses[loss.steps - 1]).all(), "a value beside its step"
    assert (loss.steps[0], loss.steps[-1]) == (1, num_steps)
    assert {1235, 4322} <= set(loss.steps.tolist())
    # The reference: extremes of each stretch of the whole column.
    of_all = np.arange(1, num_steps + 1) * num_stretches // (num_steps + 1)
    of_kept = loss.steps * num_stretches // (num_steps + 1)
    for stretch in range(num_stretches):
        assert loss.values[of_kept == stretch].min() == losses[of_all == stretch].min()
        assert loss.values[of_kept == stretch].max() == losses[of_all == stretch].max()


def test_thinning_twice_is_thinning_once() -> None:
    steps = np.arange(1, 1001)
    values = np.sin(steps / 7.0)
    once = thinned(steps, values, 1000, 10)
    assert len(once[0]) < 25
    twice = thinned(*once, 1000, 10)
    assert twice[0].tolist() == once[0].tolist()


def test_what_is_not_finite_is_counted_and_left_out(tmp_path: Path) -> None:
    values: list[Any] = [1.0, "NaN", 2.0, "Infinity", "-Infinity", 3.0]
    rows = [{"step": step, "loss": value} for step, value in enumerate(values, start=1)]
    loss = read_series(write(tmp_path / "metrics.jsonl", rows))["loss"]
    assert (loss.steps.tolist(), loss.values.tolist()) == ([1, 3, 6], [1.0, 2.0, 3.0])
    assert (loss.num_logged, loss.num_not_finite, loss.first_not_finite) == (6, 3, 2)


def test_values_that_are_no_numbers_are_passed_over(tmp_path: Path) -> None:
    rows = [{"step": 1, "x": [1, 2], "y": None}, {"step": 2, "x": None, "y": 5}, {"step": 3, "x": 7, "word": "abc"}]
    found = read_series(write(tmp_path / "metrics.jsonl", rows))
    assert (found["x"].steps.tolist(), found["x"].values.tolist(), found["x"].num_logged) == ([3], [7.0], 1)
    assert (found["y"].steps.tolist(), found["y"].num_logged, found["y"].num_not_finite) == ([2], 1, 0)
    assert "word" not in found


def test_lines_that_a_crash_damaged_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(
        b'{"step": 1, "loss": 1}\n{"step": 2, "lo\n[3]\n{"loss": 4}\n{"step": 5, "loss": 5}\n{"step": 6, "loss": 6}'
    )
    loss = read_series(path)["loss"]
    assert loss.steps.tolist() == [1, 5]


@pytest.mark.parametrize("content", [None, b"", b'{"step": 1'])
def test_a_file_without_lines_is_empty(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    if content is not None:
        path.write_bytes(content)
    assert read_series(path) == {}
