"""Every cell of the table of engines and methods: a legal pair trains as ddp does, an illegal one is refused."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from gloo import run_on_ranks
from methods.settings import SETTINGS
from support import assert_same_weights, make_run_directory, tiny_spec, train_here, train_on

from orchestrator.core.run_directory import RunDirectory
from orchestrator.spec.check import check
from orchestrator.spec.load import load_recipe_job
from orchestrator.spec.methods.engines import Engine
from orchestrator.spec.methods_table import MethodRow, engines, methods

ROWS = [row for row in methods() if row.seam != "engine"]
COLUMNS = {engine.title: engine for engine in engines()}
NAMED_BY = {"modulators": ("modulators.0", None), "exchange.compensation": ("exchange", "delayed")}
"""Where `check` tells of a row: of an item of a list, and of the exchange that a compensation belongs to."""
STEPS = 2

Trained = Callable[[str], dict[tuple[str, str], RunDirectory]]


def prepare(root: Path, row: MethodRow, engine: Engine) -> tuple[RunDirectory, list[str]]:
    """The run directory of one cell, and what `check` says of its spec."""
    sections = SETTINGS[row.seam][row.name]
    spec = tiny_spec(
        **{"train": {"steps": STEPS}, **sections, "resources": {"workers": 2}, "engine": engine.model_dump(mode="json")}
    )
    directory = make_run_directory(root, spec)
    return directory, [str(problem) for problem in check(spec, directory.code)]


def train_all(roots: list[str]) -> list[list[int]]:
    """Train one job after the other on this rank; the steps that each has logged."""
    steps = []
    for root in roots:
        outcome, lines = train_here(root)
        assert outcome == "finished", root
        steps.append([line["step"] for line in lines])
    return steps


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The legal cells of a column, trained by one group of two processes: starting one takes longer than a cell."""

    @cache
    def train_column(title: str) -> dict[tuple[str, str], RunDirectory] | Exception:
        root = tmp_path_factory.mktemp("column")
        column: dict[tuple[str, str], RunDirectory] = {}
        for index, row in enumerate(row for row in ROWS if not row.lacking[title]):
            directory, problems = prepare(root / str(index), row, COLUMNS[title])
            assert problems == []
            column[row.seam, row.name] = directory
        topologies = {cell: load_recipe_job(job.resolved_spec).exchange.topology for cell, job in column.items()}
        roots = [str(job.root) for cell, job in column.items() if topologies[cell] == "collective"]
        for job in (job for cell, job in column.items() if topologies[cell] == "served"):
            train_on(2, job)
        try:
            assert run_on_ranks(2, train_all, roots) == [[list(range(1, STEPS + 1))] * len(roots)] * 2
        except Exception as error:  # told to every cell of the column, without training it again
            return error
        return column

    def of_column(title: str) -> dict[tuple[str, str], RunDirectory]:
        column = train_column(title)
        if isinstance(column, Exception):
            raise column
        return column

    return of_column


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.seam}-{row.name}")
@pytest.mark.parametrize("title", COLUMNS)
def test_a_cell_trains_as_ddp_does_or_is_refused(title: str, row: MethodRow, trained: Trained, tmp_path: Path) -> None:
    missing = ", ".join(row.lacking[title])
    if not missing:
        cell = row.seam, row.name
        assert_same_weights(trained("ddp")[cell], trained(title)[cell], atol=1e-5)
    else:
        _, problems = prepare(tmp_path / "run", row, COLUMNS[title])
        (problem,) = problems
        reason = f"requires {missing} of the engine, which {title} does not provide"
        path, name = NAMED_BY.get(row.seam, (row.seam, row.name))
        assert problem.startswith(f'{path}.name = "{name or row.name}": {reason}. Legal: ')
