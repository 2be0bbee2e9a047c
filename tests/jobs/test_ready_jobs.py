"""Every ready job is in order and opens with what it should give."""

from pathlib import Path

import pytest

from orchestrator.launch.plan import batch_rows
from orchestrator.spec.job import JobSpec
from orchestrator.spec.load import load_spec

JOBS = Path(__file__).parents[2] / "jobs"
SPECS = sorted(JOBS.glob("*/*.yaml"))


@pytest.mark.parametrize("path", SPECS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_it_is_in_order_and_says_what_it_gives(path: Path) -> None:
    spec = load_spec(path).spec
    opening = path.read_text(encoding="utf-8").split("\n\n")[0]
    assert f"orchestrator run jobs/{path.parent.name}/{path.name}" in opening or "make demo" in opening
    assert "# Gives" in opening
    if isinstance(spec, JobSpec):
        assert any(row.is_chosen for row in batch_rows(spec))


def test_there_are_some() -> None:
    assert {path.parent.name for path in SPECS} >= {"digits", "pairs", "scenes", "script", "text"}
