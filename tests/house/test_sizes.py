"""Files stay readable: the limits of CONTRIBUTING.md."""

import ast
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "orchestrator").rglob("*.py"))
MAX_FILE_LINES = 500
MAX_MEDIAN_LINES = 120
MAX_FUNCTION_LINES = 80
P90_FUNCTION_LINES = 40


def functions(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{path.name}:{node.name}", (node.end_lineno or node.lineno) - node.lineno + 1


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_file_and_function_lengths(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_FILE_LINES
    for name, lines in functions(path):
        assert lines <= MAX_FUNCTION_LINES, f"{name} has {lines} lines"


def test_typical_lengths() -> None:
    lines = [len(path.read_text(encoding="utf-8").splitlines()) for path in FILES if path.name != "__init__.py"]
    assert statistics.median(lines) <= MAX_MEDIAN_LINES
    lengths = sorted(length for path in FILES for _, length in functions(path))
    assert lengths[int(len(lengths) * 0.9)] <= P90_FUNCTION_LINES


def test_the_loop_can_be_read_in_a_minute() -> None:
    assert len((ROOT / "orchestrator/train/loop.py").read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_say_what_they_own(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), f"{path} has no docstring"
