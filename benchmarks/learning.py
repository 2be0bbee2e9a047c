"""What does a larger batch cost in quality, with LAMB and LARS and with AdamW and SGD under the same rules?

Real data (digits, text), a fixed number of epochs, global batches from 128 to 8,192. Every run is one of the ready
specs `jobs/<data>/large_batch_<optimizer>.yaml` with overrides as of `--set`, trained by the product's own loop in one
process of one thread. The specs hold the rules: rate x sqrt(batch / 128), warmup in epochs proportional to the batch,
linear decay to 0.

1. The rate is chosen at batch 128 among five values in steps of 3, seed 0, on a validation split that takes no part in
   what is reported. A grid whose best value lies at its edge moves there and is run again.
2. The table: that rate under the rules, every batch, `SEEDS`, on the test split. SGD also with its own linear rule.
3. The rate is chosen anew at the largest batch, by the same grid around what the sqrt rule gave, and reported likewise.

Every run is a line of a JSON-lines file as soon as it ends; an interrupted benchmark goes on from there. A changed spec
needs a new file.

    python -m benchmarks.learning --runs runs/learning.jsonl --processes 2
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch

from benchmarks.run_file import Result, RunFile
from orchestrator.core.collectives import Collectives
from orchestrator.core.errors import DivergedError
from orchestrator.core.protocols import Tracker
from orchestrator.core.run_directory import RunDirectory
from orchestrator.spec.job import JobSpec
from orchestrator.spec.load import load_spec
from orchestrator.train.assemble import assemble
from orchestrator.train.context import RankContext
from orchestrator.train.phases import train_phases

ROOT = Path(__file__).parents[1]
CHOICE = "eval/loss"
"""What a rate is chosen by: of 287 images, accuracy sees too little."""


@dataclass(frozen=True)
class Reported:
    """A number that is reported."""

    title: str
    data: str
    metric: str
    scale: float
    decimals: int

    def cell(self, found: list[dict[str, float] | None]) -> str:
        """Mean and (smallest - largest) over the seeds; diverged runs are counted, not averaged."""
        values = [self.scale * metrics[self.metric] for metrics in found if metrics is not None]
        if not values:
            return "diverged"
        text = f"{sum(values) / len(values):.{self.decimals}f}"
        if len(found) > 1:
            text += f" ({min(values):.{self.decimals}f} - {max(values):.{self.decimals}f})"
        return text if len(values) == len(found) else f"{text}, {len(found) - len(values)} of {len(found)} diverged"


REPORTED = (
    Reported("Digits: accuracy in % on 360 held-out originals", "digits", "eval/accuracy", 100.0, 2),
    Reported("Digits: loss in nats on the same images", "digits", "eval/loss", 1.0, 4),
    Reported("Text: loss in nats per byte on held-out files", "text", "eval/loss", 1.0, 3),
)
BATCHES = (128, 512, 2048, 8192)
ROOT_OF_LARGEST = math.sqrt(BATCHES[-1] / BATCHES[0])
"""The sqrt rule's factor at the largest batch."""
SEEDS = (0, 1, 2)
GRID = (-2, -1, 0, 1, 2)
"""Powers of 3 from the grid's center."""
CENTERS = {
    "digits": {"lamb": 0.02, "lars": 0.1, "adamw": 0.003, "sgd": 0.1},
    "text": {"lamb": 0.02, "lars": 0.3, "adamw": 0.006, "sgd": 1.0},
}
"""Rates at batch 128 around which each optimizer's first grid lies."""


@dataclass(frozen=True)
class Run:
    """One training: what differs from the ready spec."""

    data: str
    optimizer: str
    batch: int
    lr: float
    """At the reference batch, before the scaling rule."""
    rule: str = "sqrt"
    seed: int = 0
    validation: bool = False

    @property
    def spec(self) -> Path:
        """The ready spec."""
        return ROOT / "jobs" / self.data / f"large_batch_{self.optimizer}.yaml"

    @property
    def overrides(self) -> list[str]:
        """As of ``--set``."""
        return [
            f"batch.global_size={self.batch}",
            f"optimizer.lr={self.lr!r}",
            f"scaling.rule={self.rule}",
            f"train.seed={self.seed}",
            f"recipe.args.validation={str(self.validation).lower()}",
            "checkpoint.every=null",
        ]


class LastEvaluation:
    """A tracker that keeps the step and the evaluation of the last line."""

    def __init__(self) -> None:
        self.step = 0
        self.metrics: dict[str, float] = {}

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """See ``core.protocols.Tracker``."""
        self.step = step
        self.metrics = {name: value for name, value in metrics.items() if name.startswith("eval/")}

    def event(self, name: str, fields: Mapping[str, Any]) -> None:
        """See ``core.protocols.Tracker``."""

    def close(self) -> None:
        """See ``core.protocols.Tracker``."""


def train_alone(spec: JobSpec, code: Path, tracker: Tracker) -> None:
    """Train a job as the only rank, in this process and a folder that goes with it.

    Raises:
        DivergedError: where loss or gradients are no longer finite.
    """
    # The recipes of several folders are modules of one name.
    sys.modules.pop("recipe", None)
    sys.path[:] = [path for path in sys.path if not path.endswith("/code")]
    with tempfile.TemporaryDirectory() as folder:
        directory = RunDirectory(folder)
        directory.code.symlink_to(code)
        directory.update_state(phase="running", attempts=1)
        context = RankContext(
            run_directory=directory,
            attempt=1,
            collectives=Collectives(),
            device=torch.device("cpu"),
            nodes=("here",),
        )
        train_phases(assemble(spec, context, tracker), context, tracker)


def train(run: Run, *more: str) -> tuple[Run, Result]:
    """Train in this process, with more overrides; a run whose loss is no longer finite has diverged."""
    torch.set_num_threads(1)
    loaded = load_spec(run.spec, [*run.overrides, *more])
    assert isinstance(loaded.spec, JobSpec)
    tracker, started = LastEvaluation(), time.process_time()
    with contextlib.suppress(DivergedError):
        train_alone(loaded.spec, loaded.folder, tracker)
    has_diverged = not math.isfinite(tracker.metrics.get(CHOICE, math.nan))
    return run, {
        "metrics": None if has_diverged else tracker.metrics,
        "steps": tracker.step,
        "cpu_s": round(time.process_time() - started, 2),
    }


class Runs(RunFile[Run]):
    """All runs that have been made.

    Args:
        path: JSON lines; need not exist.
        processes: runs at one time.
    """

    def __init__(self, path: Path, processes: int) -> None:
        super().__init__(path, processes, Run, train)

    def steps(self, cell: Iterable[Run]) -> int:
        """Steps of a whole training: those of the run that got farthest."""
        return max(int(self.results[run]["steps"]) for run in cell)

    def best(self, grid: Iterable[Run]) -> float:
        """The rate of the run with the smallest loss.

        Raises:
            ValueError: where all of them diverged.
        """
        losses = {run.lr: metrics[CHOICE] for run in grid if (metrics := self.results[run]["metrics"]) is not None}
        return min(losses, key=lambda lr: losses[lr])


def grid(data: str, optimizer: str, batch: int, start: float, shift: int = 0) -> list[Run]:
    """The runs among which a rate is chosen, around ``start`` times 3 to the power of ``shift``."""
    # Six digits: what a person would write into a spec.
    rates = [float(f"{start * 3.0 ** (power + shift):.6g}") for power in GRID]
    return [Run(data, optimizer, batch, lr, validation=True) for lr in rates]


def table(data: str, optimizer: str, lr: float, rule: str) -> list[list[Run]]:
    """The reported runs of one row: for each batch, the seeds. At the reference batch all rules are one."""
    return [
        [Run(data, optimizer, batch, lr, "sqrt" if batch == BATCHES[0] else rule, seed) for seed in SEEDS]
        for batch in BATCHES
    ]


class Study:
    """The three stages on one data set, and their tables. Makes the runs that are missing.

    Args:
        data: the data set.
        runs: all runs so far.
    """

    def __init__(self, data: str, runs: Runs) -> None:
        self._data = data
        self._runs = runs
        self._grids: dict[str, list[Run]] = {}
        self._lr = self._choose(BATCHES[0], CENTERS[data], self._grids)
        self._tables = {
            (name, rule): table(data, name, lr, rule)
            for name, lr in self._lr.items()
            for rule in (("sqrt", "linear") if name == "sgd" else ("sqrt",))
        }
        runs.make(run for cells in self._tables.values() for cell in cells for run in cell)
        self._grids_at_largest: dict[str, list[Run]] = {}
        self._lr_at_largest: dict[str, float] = {}
        self._at_largest: dict[str, list[Run]] = {}

    def tune_at_largest(self) -> None:
        """Stage 3."""
        self._lr_at_largest = self._choose(BATCHES[-1], self._lr, self._grids_at_largest)
        for name, lr in self._lr_at_largest.items():
            self._at_largest[name] = [Run(self._data, name, BATCHES[-1], lr, seed=seed) for seed in SEEDS]
        self._runs.make(run for cell in self._at_largest.values() for run in cell)

    def report(self) -> Iterator[str]:
        """The tables of every number that is reported."""
        for what in (each for each in REPORTED if each.data == self._data):
            yield from (f"## {what.title}", "", *self._table(what), "")
            yield from (f"Rate chosen anew at batch {BATCHES[-1]:,} by the same grid:", "")
            yield from (*self._table_at_largest(what), "")
            yield from ("The grids: one seed on the validation split, by the rate's factor from the center.", "")
            yield from (*self._table_of_grids(what), "")

    def _choose(self, batch: int, starts: Mapping[str, float], grids: dict[str, list[Run]]) -> dict[str, float]:
        """The best rates; a grid whose best rate lies at its edge moves there and is run again."""
        shifts = dict.fromkeys(starts, 0)
        while True:
            for name, start in starts.items():
                grids[name] = grid(self._data, name, batch, start, shifts[name])
            self._runs.make(run for runs in grids.values() for run in runs)
            best = {name: self._runs.best(runs) for name, runs in grids.items()}
            at_edge = {
                name: GRID[place]
                for name in starts
                if (place := self._place(grids[name], best[name])) in (0, len(GRID) - 1)
            }
            if not at_edge:
                return best
            for name, step in at_edge.items():
                shifts[name] += step

    @staticmethod
    def _place(runs: list[Run], lr: float) -> int:
        return [run.lr for run in runs].index(lr)

    def _table(self, what: Reported) -> Iterator[str]:
        first = next(iter(self._tables.values()))
        heads = [f"{cell[0].batch:,} ({self._runs.steps(cell)} steps)" for cell in first]
        yield from table_head("optimizer, rule", f"rate at {BATCHES[0]}", *heads)
        for (name, rule), cells in self._tables.items():
            yield table_row(f"{name}, {rule}", f"{self._lr[name]:.3g}", *self._cells(what, cells))

    def _table_at_largest(self, what: Reported) -> Iterator[str]:
        yield from table_head("optimizer", "rate by the sqrt rule", "rate chosen", f"{BATCHES[-1]:,}")
        for name, cell in self._at_largest.items():
            rates = [f"{lr[name] * ROOT_OF_LARGEST:.3g}" for lr in (self._lr, self._lr_at_largest)]
            yield table_row(name, *rates, *self._cells(what, [cell]))

    def _table_of_grids(self, what: Reported) -> Iterator[str]:
        yield from table_head("optimizer, batch", "center", *(f"x {3.0**power:.2g}" for power in GRID))
        for batch, grids, factor in (
            (BATCHES[0], self._grids, 1.0),
            (BATCHES[-1], self._grids_at_largest, ROOT_OF_LARGEST),
        ):
            for name, runs in grids.items():
                center = f"{runs[len(GRID) // 2].lr * factor:.3g}"
                yield table_row(f"{name}, {batch:,}", center, *self._cells(what, [[run] for run in runs]))

    def _cells(self, what: Reported, cells: list[list[Run]]) -> list[str]:
        return [what.cell([self._runs.results[run]["metrics"] for run in cell]) for cell in cells]


def table_head(*titles: str) -> Iterator[str]:
    yield table_row(*titles)
    yield "|---" * len(titles) + "|"


def table_row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "learning.jsonl", help="JSON lines, added to")
    parser.add_argument("--data", nargs="+", choices=CENTERS, default=list(CENTERS))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--output", type=Path, default=None, help="default: a dated file beside this script")
    options = parser.parse_args()
    runs = Runs(options.runs, options.processes)
    studies = [Study(data, runs) for data in options.data]
    for study in studies:
        study.tune_at_largest()
    tables = [line for study in studies for line in study.report()]
    made = [result for run, result in runs.results.items() if run.data in options.data]
    cpu_s = sum(result["cpu_s"] for result in made)
    text = "\n".join(
        [
            "# Quality against the batch, with a fixed number of epochs",
            "",
            f"`python -m benchmarks.learning --data {' '.join(options.data)} --processes {options.processes}`, "
            f"{date.today()}, {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
            f"torch {torch.__version__}.",
            f"{len(made)} runs, {cpu_s:.0f} s of CPU time, one thread each.",
            "",
            *tables,
        ]
    )
    default = ROOT / "benchmarks" / f"learning_{os.cpu_count()}-core-cpu_{date.today()}.md"
    (options.output or default).write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
