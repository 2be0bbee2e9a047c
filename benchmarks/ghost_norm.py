"""What normalization does to a large batch, and to micro-batches of two: nets with batch norm on digits.

Real training through the product's own loop, one process of one thread each: 1,024 images to train on, 773 held out,
SGD with momentum 0.9.

1. Table 1 of "Train longer, generalize better" (arXiv 1705.08741) at a small size: three layers of 128 with batch norm,
   20 epochs, the rate a tenth of itself after 50 and 75 % of them, gradients clipped to norm 5. The small batch is 32,
   the large one all 1,024 images; rate x sqrt(32), ghosts of 32 and as many updates as the small batch's are added one
   after another. Once with the labels as they are, once with 20 % of them wrong. `SEEDS`.
2. Micro-batches of 2 (arXiv 1903.10520, 1911.09738): a small convolutional net, 250 updates of 32 images at a constant
   rate, the same for every kind of normalization. `MICRO_SEEDS`.

Every run is a line of a JSON-lines file as soon as it ends; an interrupted benchmark goes on from there.

    python -m benchmarks.ghost_norm --runs runs/ghost_norm.jsonl
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch

from benchmarks.arms import train_measured
from benchmarks.learning import table_head, table_row
from benchmarks.run_file import Result, RunFile
from orchestrator.spec.job import JobSpec

SMALL, LARGE = 32, 1024
EPOCHS = (10, 5, 5)
"""Of each phase; the rate falls to a tenth between them."""
LR = 0.1
SEEDS = (0, 1, 2, 3, 4)
NOISES = (0.0, 0.2)
GHOSTS = [{"name": "ghost_norm", "size": SMALL}]
ROOT_RULE = {"rule": "sqrt", "reference_batch": SMALL}
LARGE_ARMS: dict[str, dict[str, Any]] = {
    "small batch, 32": {"batch": {"global_size": SMALL}},
    "large batch, 1,024": {"batch": {"global_size": LARGE}},
    "+ rate x sqrt(32)": {"batch": {"global_size": LARGE}, "scaling": ROOT_RULE},
    "+ ghosts of 32": {"batch": {"global_size": LARGE}, "scaling": ROOT_RULE, "modulators": GHOSTS},
    "+ as many updates": {
        "batch": {"global_size": LARGE},
        "scaling": {**ROOT_RULE, "same_updates": True},
        "modulators": GHOSTS,
    },
}
UPDATES, MICRO = 250, 2
MICRO_SEEDS = (0, 1, 2, 3, 4)
STANDARDIZED = {"name": "weight_standardization"}
MICRO_ARMS: dict[str, dict[str, Any]] = {
    "batch norm, micro-batches of 32": {"norm": "batch", "micro_size": SMALL},
    "batch norm": {"norm": "batch"},
    "group norm": {"norm": "group"},
    "group norm, weight standardization": {"norm": "group", "modulators": [STANDARDIZED]},
    "batch-channel norm, weight standardization": {
        "norm": "batch",
        "modulators": [STANDARDIZED, {"name": "batch_channel_norm", "groups": 4, "estimate": 0.01}],
    },
}


@dataclass(frozen=True)
class Run:
    """One training."""

    arm: str
    seed: int
    noise: float = 0.0
    """Of an arm of the first table."""
    lr: float = LR

    @property
    def spec(self) -> JobSpec:
        """What is trained."""
        return large_spec(self) if self.arm in LARGE_ARMS else micro_spec(self)


def large_spec(run: Run) -> JobSpec:
    """A run of the first table."""
    first, *later = EPOCHS
    phases = [
        {"train": {"epochs": epochs}, "optimizer": {"lr": run.lr / 10**number}}
        for number, epochs in enumerate(later, 1)
    ]
    return _spec(
        recipe={"net": "dense", "noise": run.noise, "noise_seed": run.seed},
        train={"epochs": first, "seed": run.seed, "clip_grad_norm": 5.0},
        lr=run.lr,
        **LARGE_ARMS[run.arm],
        then=phases,
    )


def micro_spec(run: Run) -> JobSpec:
    """A run of the second table."""
    arm = {"micro_size": MICRO, "modulators": [], **MICRO_ARMS[run.arm]}
    return _spec(
        recipe={"net": "convolutional", "norm": arm["norm"]},
        train={"steps": UPDATES, "seed": run.seed},
        lr=run.lr,
        batch={"global_size": SMALL, "micro_size": arm["micro_size"]},
        modulators=arm["modulators"],
    )


def _spec(*, recipe: Mapping[str, Any], train: Mapping[str, Any], lr: float, **sections: Any) -> JobSpec:
    return JobSpec.model_validate(
        {
            "name": "ghost-norm",
            "recipe": {"target": "norm_recipe.py:Digits", "args": recipe},
            "train": {**train, "log_every": 1000},
            "optimizer": {"name": "sgd", "lr": lr, "momentum": 0.9},
            "checkpoint": {"every": None, "keep": 1},
            **sections,
        }
    )


def train(run: Run) -> tuple[Run, Result]:
    """Train in this process."""
    return run, train_measured(run.spec)


Results = dict[Run, Result]


def large_runs(arm: str, noise: float) -> list[Run]:
    """A cell of the first table."""
    return [Run(arm, seed, noise) for seed in SEEDS]


def micro_runs(arm: str) -> list[Run]:
    """A row of the second table."""
    return [Run(arm, seed) for seed in MICRO_SEEDS]


def report(results: Results) -> Iterator[str]:
    """Both tables."""
    yield "## A large batch"
    yield ""
    yield f"Accuracy in % on held-out images, mean +- standard deviation (smallest - largest) of {len(SEEDS)} seeds."
    yield ""
    yield from table_head("", "updates", *(f"{noise:.0%} wrong labels" for noise in NOISES))
    for arm in LARGE_ARMS:
        cells = [[results[run] for run in large_runs(arm, noise)] for noise in NOISES]
        yield table_row(arm, str(cells[0][0]["steps"]), *map(_cell, cells))
    yield ""
    yield "## Micro-batches of two"
    yield ""
    yield f"The same of {len(MICRO_SEEDS)} seeds, all at a rate of {LR}; the loss in nats."
    yield ""
    yield from table_head("normalization", "accuracy", "loss")
    for arm in MICRO_ARMS:
        cell = [results[run] for run in micro_runs(arm)]
        yield table_row(arm, _cell(cell), _cell(cell, "loss", scale=1.0, decimals=3))


def _cell(found: list[dict[str, Any]], name: str = "accuracy", *, scale: float = 100.0, decimals: int = 2) -> str:
    values = [scale * float(result[name]) for result in found if result[name] is not None]
    if len(values) < len(found):
        return f"{len(found) - len(values)} of {len(found)} diverged"
    mean, spread = statistics.mean(values), statistics.stdev(values)
    return f"{mean:.{decimals}f} +- {spread:.{decimals}f} ({min(values):.{decimals}f} - {max(values):.{decimals}f})"


def main() -> None:
    """Make the runs that are missing and print the result page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="JSON-lines file of all runs")
    parser.add_argument("--processes", type=int, default=1, help="runs at one time")
    arguments = parser.parse_args()
    wanted = [run for arm in LARGE_ARMS for noise in NOISES for run in large_runs(arm, noise)]
    wanted += [run for arm in MICRO_ARMS for run in micro_runs(arm)]
    # Seed by seed: what else the machine does meanwhile falls on all arms alike.
    results = RunFile(arguments.runs, arguments.processes, Run, train).make(sorted(wanted, key=lambda run: run.seed))
    cpu_s = sum(float(results[run]["cpu_s"]) for run in dict.fromkeys(wanted))
    cores, load = os.cpu_count(), os.getloadavg()[0]
    print(f"\n# Ghost norm, {cores} cores ({platform.processor() or platform.machine()}), {date.today()}\n")
    print(f"torch {torch.__version__}, {cpu_s / 60:.0f} min of CPU time; load average at the end {load:.1f}\n")
    print("\n".join(report(results)))


if __name__ == "__main__":
    main()
