"""A folder with a recipe, for specs that are written by the test."""

from pathlib import Path

import pytest
from spec.bad_spec import RECIPE


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    job = tmp_path / "My Jobs_2"
    job.mkdir()
    (job / "recipe.py").write_text(RECIPE, encoding="utf-8")
    return job
