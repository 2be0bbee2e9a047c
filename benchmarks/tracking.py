"""What does a shared history cost the trainings that write it: MLflow on PostgreSQL, 8 jobs, 50 metrics per step?

Eight trainings of the digits net in processes of their own take turns of some seconds, all with tracking and then all
without. Everything is on this one machine, so the trainings pay for the server and the database too, which a team has
elsewhere; what the training process itself spends in the tracker is told apart.

    python -m benchmarks.tracking --jobs 8 --turns 4
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cluster.local.tracking import shared_history
from orchestrator.core.run_directory import RunDirectory, read_json_lines
from orchestrator.tracking.client import open_client
from orchestrator.tracking.run import open_run
from orchestrator.tracking.sender import MetricsSender
from orchestrator.tracking.tracker import RunTracker

ROOT = Path(__file__).parents[1]
METRICS = 50
BATCH = 256
PACES = {"one per second": 1.0, "one after another": 0.0}
"""Seconds that a step takes at least: where GPUs compute, the host's cores have time left, and so they can here."""
TRACKED, ALONE = "tracked", "alone"


@dataclass(frozen=True)
class Job:
    """One training."""

    folder: str
    uri: str
    run: str


class Training:
    """The digits net on one batch after another."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(0)
        sys.path.insert(0, str(ROOT / "jobs" / "digits"))
        self._recipe = importlib.import_module("recipe").Digits()
        rows, _ = self._recipe.build_datasets()
        self._batches = [rows[start : start + BATCH] for start in range(0, 16 * BATCH, BATCH)]
        self._model: nn.Module = self._recipe.build_model()
        self._optimizer = torch.optim.SGD(self._model.parameters(), lr=0.01)
        self.steps = 0

    def take_step(self) -> float:
        """One step; returns its loss."""
        batch = {name: torch.as_tensor(values) for name, values in self._batches[self.steps % 16].items()}
        loss: Tensor = self._recipe.loss(self._model, batch)[0]
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        self.steps += 1
        return float(loss.detach())


def train(job: Job, turns: int, turn_s: float, pace_s: float, barrier: Any, told: Any) -> None:
    """One job; tells seconds per step that it worked, and that it spent in the tracker, of every turn."""
    training, directory = Training(), RunDirectory(Path(job.folder))
    training.take_step()
    worked: dict[str, list[float]] = {TRACKED: [], ALONE: []}
    inside_s: list[float] = []
    with closing(RunTracker(directory, job.uri, job.run)) as tracker:
        for turn in range(turns + 1):
            for kind in (TRACKED, ALONE)[:: 1 if turn % 2 else -1]:
                barrier.wait()
                ends = time.perf_counter() + turn_s
                steps, work_s, log_s = 0, 0.0, 0.0
                while time.perf_counter() < ends:
                    started = time.perf_counter()
                    loss = training.take_step()
                    computed = time.perf_counter()
                    if kind == TRACKED:
                        tracker.log(training.steps, {f"metric_{k}": loss + k for k in range(METRICS)})
                    now = time.perf_counter()
                    steps, work_s, log_s = steps + 1, work_s + now - started, log_s + now - computed
                    time.sleep(max(0.0, pace_s - (now - started)))
                worked[kind].append(work_s / steps)
                if kind == TRACKED:
                    inside_s.append(log_s / steps)
                # What is still on its way is not to fall into the next turn.
                while MetricsSender(directory, job.uri, job.run).count_unsent():
                    time.sleep(0.1)
    # The first turn starts the companion.
    told.put({TRACKED: worked[TRACKED][1:], ALONE: worked[ALONE][1:], "inside_s": inside_s[1:]})


def measure(jobs: int, turns: int, turn_s: float, pace_s: float) -> list[dict[str, list[float]]]:
    """What every job told; fails where MLflow has not every point."""
    # Not below a folder that PostgreSQL's user may not enter.
    folder = Path(tempfile.mkdtemp(prefix="history"))
    folder.chmod(0o711)
    context = multiprocessing.get_context("spawn")
    barrier, told = context.Barrier(jobs), context.SimpleQueue()
    try:
        with shared_history(folder) as (server, _):
            made = []
            for number in range(jobs):
                directory = folder / f"job-{number}"
                directory.mkdir()
                run = open_run(server.uri, "shared", directory.name, {}, {})
                made.append(Job(str(directory), server.uri, run))
            processes = [
                context.Process(target=train, args=(job, turns, turn_s, pace_s, barrier, told)) for job in made
            ]
            for process in processes:
                process.start()
            results = [told.get() for _ in processes]
            for process in processes:
                process.join()
            for job in made:
                _check(job)
        return results
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _check(job: Job) -> None:
    steps = [line["step"] for line in read_json_lines(RunDirectory(Path(job.folder)).metrics_file)]
    for metric in ("metric_0", f"metric_{METRICS - 1}"):
        stored = sorted(point.step for point in open_client(job.uri).get_metric_history(job.run, metric))
        if stored != steps:
            raise SystemExit(f"{job.folder}: {len(steps)} steps were logged, MLflow has {len(stored)} of {metric}")


def row(title: str, results: list[dict[str, list[float]]]) -> str:
    """One row of the table."""
    ratios = sorted(one / other for told in results for one, other in zip(told[TRACKED], told[ALONE], strict=True))
    quarter = len(ratios) // 4
    alone = statistics.median(value for told in results for value in told[ALONE])
    inside = statistics.median(value for told in results for value in told["inside_s"])
    spread = f"{statistics.median(ratios):.3f} ({ratios[quarter]:.3f} - {ratios[-1 - quarter]:.3f})"
    return f"| {title} | {alone * 1e3:.1f} | {spread} | {inside * 1e6:.0f} | {inside / alone:.2%} |"


def report(rows: list[str], command: str, jobs: int) -> str:
    """The result page."""
    return "\n".join(
        [
            "# A history on PostgreSQL that eight jobs write",
            "",
            f"`{command}`, {date.today()}, {platform.machine()}, {os.cpu_count()} cores, Python "
            f"{platform.python_version()}, torch {torch.__version__}.",
            f"{jobs} trainings of the digits net, one thread each, {METRICS} metrics per step, MLflow's server and",
            "PostgreSQL, all on these cores. Work of a step: until it has ended and its metrics are handed over,",
            "without the pause after it. Ratio to turns without tracking, pair by pair and job by job: median with the",
            "quartiles. In the tracker: what the training process itself spends. Every point was in MLflow afterwards.",
            "Aim: 1.02.",
            "",
            "| steps | alone, ms | work, tracked / alone (quartiles) | in the tracker, us | of the step |",
            "|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=8)
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--turn-s", type=float, default=8.0)
    parser.add_argument("--output", type=Path, default=None, help="default: a dated file beside this script")
    options = parser.parse_args()
    rows = []
    for title, pace_s in PACES.items():
        rows.append(row(title, measure(options.jobs, options.turns, options.turn_s, pace_s)))
        print(rows[-1], flush=True)
    command = f"python -m benchmarks.tracking --jobs {options.jobs} --turns {options.turns} --turn-s {options.turn_s:g}"
    default = ROOT / "benchmarks" / f"tracking_{os.cpu_count()}-core-cpu_{date.today()}.md"
    text = report(rows, command, options.jobs)
    (options.output or default).write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
