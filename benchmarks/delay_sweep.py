"""How much delay do gradients stand: momentum SGD, adaptive braking and the compensations, on a net for digits?

Real training through `exchange: delayed` in the product's own loop, one process of one thread each: 1,100 updates of 32
images, momentum 0.9, weight decay 5e-4, cosine schedule, 360 held-out images.

1. One learning rate for all, 0.01, over delays of 0 to 32 updates, `SEEDS`.
2. Each method at its own best of several rates, delays of 16 and 64, one seed. Without this table the first one
   flatters whatever widens the range of usable rates.

Every run is a line of a JSON-lines file as soon as it ends; an interrupted benchmark goes on from there.

    python -m benchmarks.delay_sweep --runs runs/delay_sweep.jsonl --processes 2
"""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch

from benchmarks.arms import train_measured
from benchmarks.learning import table_head, table_row
from benchmarks.run_file import Result, RunFile
from orchestrator.spec.job import JobSpec

UPDATES = 1100
LR = 0.01
"""Momentum SGD's best without a delay."""
DELAYS = (0, 4, 16, 32)
SEEDS = (0, 1, 2)
RATES = (0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001)
TUNED_DELAYS = (16, 64)
METHODS: dict[str, dict[str, Any]] = {
    "momentum SGD": {},
    "braking, rho 2, tensor": {"modulators": [{"name": "adaptive_braking", "min_delay": 0.0}]},
    "braking, rho 2, model": {"modulators": [{"name": "adaptive_braking", "scope": "model", "min_delay": 0.0}]},
    "staleness-aware": {"compensation": {"name": "staleness_aware"}},
    "Gap-Aware": {"compensation": {"name": "gap_aware"}},
    "DANA-Zero": {"compensation": {"name": "dana_zero"}},
}
TUNED = ("momentum SGD", "braking, rho 2, tensor", "staleness-aware", "Gap-Aware")


@dataclass(frozen=True)
class Run:
    """One training."""

    method: str
    delay: int
    """Updates."""
    lr: float = LR
    seed: int = 0
    updates: int = UPDATES

    @property
    def spec(self) -> JobSpec:
        """What is trained."""
        method = METHODS[self.method]
        exchange = {"name": "delayed", "steps": self.delay, "compensation": method.get("compensation")}
        return JobSpec.model_validate(
            {
                "name": "delay-sweep",
                "recipe": {"target": "delay_recipe.py:Digits"},
                "train": {"steps": self.updates, "seed": self.seed, "log_every": 100},
                "batch": {"global_size": 32},
                "optimizer": {"name": "sgd", "lr": self.lr, "momentum": 0.9, "weight_decay": 5e-4},
                "schedule": {"name": "cosine"},
                "exchange": exchange,
                "modulators": method.get("modulators", []),
                "checkpoint": {"every": None, "keep": 1},
            }
        )


def train(run: Run) -> tuple[Run, Result]:
    """Train in this process."""
    return run, train_measured(run.spec)


def fixed(method: str, delay: int) -> list[Run]:
    """The runs of a cell of the first table."""
    return [Run(method, delay, seed=seed) for seed in SEEDS]


def tuned(method: str, delay: int) -> list[Run]:
    """The runs among which a cell of the second table is chosen."""
    return [Run(method, delay, lr=lr) for lr in RATES]


def report(results: dict[Run, dict[str, Any]]) -> Iterator[str]:
    """Both tables."""
    yield f"## One rate for all: {LR}"
    yield ""
    yield f"Accuracy in % on the held-out images, mean (smallest - largest) of {len(SEEDS)} seeds; 10 % is chance."
    yield ""
    yield from table_head("method", *(f"delay {delay}" for delay in DELAYS))
    for method in METHODS:
        yield table_row(method, *(_cell([results[run] for run in fixed(method, delay)]) for delay in DELAYS))
    yield ""
    yield "## Each method at its best rate"
    yield ""
    yield f"One seed, rates {', '.join(map(str, RATES))}; the accuracy in % of the best one, and which it is."
    yield ""
    yield from table_head("method", *(f"delay {delay}" for delay in TUNED_DELAYS))
    for method in TUNED:
        yield table_row(method, *(_best({run.lr: results[run] for run in tuned(method, d)}) for d in TUNED_DELAYS))
    yield ""
    yield "All rates at the delays of that table:"
    yield ""
    yield from table_head("method, delay", *map(str, RATES))
    for method in TUNED:
        for delay in TUNED_DELAYS:
            yield table_row(f"{method}, {delay}", *(_cell([results[run]]) for run in tuned(method, delay)))


def _percent(result: dict[str, Any]) -> float:
    """A training that diverged guesses."""
    return 10.0 if result["accuracy"] is None else 100.0 * float(result["accuracy"])


def _cell(found: list[dict[str, Any]]) -> str:
    values = [_percent(result) for result in found]
    text = f"{sum(values) / len(values):.1f}"
    return text if len(values) == 1 else f"{text} ({min(values):.1f} - {max(values):.1f})"


def _best(by_rate: dict[float, dict[str, Any]]) -> str:
    lr = max(by_rate, key=lambda rate: _percent(by_rate[rate]))
    return f"{_percent(by_rate[lr]):.1f} at {lr}"


def main() -> None:
    """Make the runs that are missing and print the result page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="JSON-lines file of all runs")
    parser.add_argument("--processes", type=int, default=1, help="runs at one time")
    arguments = parser.parse_args()
    wanted = [run for method in METHODS for delay in DELAYS for run in fixed(method, delay)]
    wanted += [run for method in TUNED for delay in TUNED_DELAYS for run in tuned(method, delay)]
    wanted.sort(key=lambda run: run.seed)
    results = RunFile(arguments.runs, arguments.processes, Run, train).make(wanted)
    cpu_s = sum(float(results[run]["cpu_s"]) for run in dict.fromkeys(wanted))
    cores, load = os.cpu_count(), os.getloadavg()[0]
    print(f"\n# Delay sweep, {cores} cores ({platform.processor() or platform.machine()}), {date.today()}\n")
    print(f"torch {torch.__version__}, {cpu_s / 60:.0f} min of CPU time; load average at the end {load:.1f}\n")
    print("\n".join(report(results)))


if __name__ == "__main__":
    main()
