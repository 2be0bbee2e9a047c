"""Does the number of samples that share a perturbation matter to SAM? Momentum SGD, and SAM with m of 512, 64 and 16.

Real training in the product's own loop, one process of one thread each: a small MLP with layer norm on 512 digits, a
fifth of which have a wrong label; full batches of 512, momentum 0.9, cosine schedule, 885 held-out images with right
labels. Every arm has the rate that is best for it, chosen on 400 other images. SAM costs two passes for each sample, so
momentum SGD is also given twice the steps.

Every run is a line of a JSON-lines file as soon as it ends; an interrupted benchmark goes on from there.

    python -m benchmarks.sharpness --runs runs/sharpness.jsonl --processes 2
"""

from __future__ import annotations

import argparse
import os
import platform
from datetime import date
from pathlib import Path
from typing import Any

import torch

from benchmarks.arms import Comparison, Run, train_measured
from benchmarks.run_file import Result
from orchestrator.spec.job import JobSpec

STEPS = 150
SAM: dict[str, dict[str, Any]] = {f"SAM, rho 0.2, m {m}": {"rho": 0.2, "m": m} for m in (512, 64, 16)}
TWICE = "SGD, twice the steps"


def train(run: Run) -> tuple[Run, Result]:
    """Train in this process."""
    spec = JobSpec.model_validate(
        {
            "name": "sharpness",
            "recipe": {
                "target": "robust_recipe.py:NoisyDigits",
                "args": {"seed": run.seed, "validation": run.validation},
            },
            "train": {"steps": 2 * STEPS if run.arm == TWICE else STEPS, "seed": run.seed, "log_every": 50},
            "batch": {"global_size": 512},
            "optimizer": {"name": "sgd", "lr": run.lr, "momentum": 0.9},
            "schedule": {"name": "cosine"},
            "modulators": [{"name": "sam", **SAM[run.arm]}] if run.arm in SAM else [],
            "checkpoint": {"every": None, "keep": 1},
        }
    )
    return run, train_measured(spec)


COMPARISON = Comparison(
    arms=("SGD", TWICE, *SAM),
    train=train,
    rates=(0.003, 0.01, 0.03, 0.1, 0.3),
    choice_seeds=(100,),
    seeds=(0, 1, 2, 3, 4),
)


def main() -> None:
    """Make the runs that are missing and print the result page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="JSON-lines file of all runs")
    parser.add_argument("--processes", type=int, default=1, help="runs at one time")
    arguments = parser.parse_args()
    results, rates = COMPARISON.make(arguments.runs, arguments.processes)
    cores, load = os.cpu_count(), os.getloadavg()[0]
    print(f"\n# Sharpness-aware minimization by m, {cores} cores ({platform.machine()}), {date.today()}\n")
    print(f"torch {torch.__version__}; load average at the end {load:.1f}\n")
    print("\n".join(COMPARISON.report(results, rates)))


if __name__ == "__main__":
    main()
