"""docs/spec.md is what docs/generate.py would write from the types."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


def check(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(folder / "generate.py"), "--check"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_reference_is_current() -> None:
    result = check(DOCS)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("content", [None, "", "stale"])
def test_a_stale_reference_is_noticed_and_left_alone(content: str | None, tmp_path: Path) -> None:
    shutil.copy(DOCS / "generate.py", tmp_path)
    target = tmp_path / "spec.md"
    if content is not None:
        target.write_text(content, encoding="utf-8")
    result = check(tmp_path)
    assert (result.returncode, result.stderr) == (1, "spec.md is not current; run make docs\n")
    assert (target.read_text(encoding="utf-8") if target.exists() else None) == content
