"""What every method must do: train, resume bit for bit, have a card."""

from pathlib import Path

import pytest
from methods.settings import SETTINGS
from support import assert_same_weights, make_run_directory, tiny_spec, train_on

from orchestrator.core.tables import TABLES

CARDS = Path(__file__).parents[2] / "docs" / "methods"
CASES = [(seam, name) for seam, rows in SETTINGS.items() for name in rows]


def test_every_method_has_a_row() -> None:
    assert {seam: set(rows) for seam, rows in SETTINGS.items()} == {seam: set(table) for seam, table in TABLES.items()}


@pytest.mark.parametrize(("seam", "name"), [(s, n) for s, table in TABLES.items() for n in table])
def test_every_method_has_a_card(seam: str, name: str) -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in CARDS.glob("*.md"))
    assert f"`{seam}: {{name: {name}" in text, f"no card in docs/methods opens with `{seam}: {{name: {name} ...}}`"


@pytest.mark.parametrize(("seam", "name"), CASES)
def test_it_trains_and_resumes_bit_for_bit(tmp_path: Path, seam: str, name: str) -> None:
    # One worker has nothing to divide; what is of no engine is trained by several in test_engine_table.py.
    workers = 2 if seam == "engine" else 1
    spec = tiny_spec(checkpoint={"every": 3}, resources={"workers": workers}, **SETTINGS[seam][name])
    whole = make_run_directory(tmp_path / "whole", spec)
    outcome, lines = train_on(workers, whole)[0]
    assert outcome == "finished"
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert lines[-1]["loss"] < lines[0]["loss"]

    broken = make_run_directory(tmp_path / "broken", spec)
    broken.checkpoints.mkdir()
    (whole.checkpoints / "step_3").rename(broken.checkpoints / "step_3")
    _, resumed = train_on(workers, broken)[0]
    assert [line["step"] for line in resumed] == [4, 5, 6]
    assert_same_weights(whole, broken)
