"""What does adversarial learning bring at a large batch, and what does a step of it cost when it need not wait?

Real training in the product's own loop, one process of one thread each: a convolutional net with batch norm on 1,437
digits, batches of 512, 40 steps, momentum 0.9, cosine schedule, epsilon 0.1 of pixels in [0, 1], separate batch-norm
layers; 360 held-out images. Every arm has the rate that is best for it, chosen on 287 of the training images. A step of
adversarial learning computes three gradients and not one, so plain training is also given three times the steps.

Then the time of a step, all kinds taking turns, each in a process with a thread for the step and, where attacks are
concurrent, one for them.

    python -m benchmarks.adversarial --runs runs/adversarial.jsonl --processes 2
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

from benchmarks.arms import Comparison, Run, train_measured
from benchmarks.learning import table_head, table_row, train_alone
from benchmarks.run_file import Result, RunFile
from orchestrator.spec.job import JobSpec

STEPS = 40
TIMED_STEPS = 25
SKIPPED_STEPS = 5
ROUNDS = 3
ATTACK = {"epsilon": 0.1, "clip": [0.0, 1.0]}
THRICE = "plain, three times the steps"
ARMS: dict[str, list[dict[str, Any]]] = {
    "plain": [],
    THRICE: [],
    "DisAdv": [{"name": "disadv", **ATTACK}],
    "ConAdv, staleness 1": [{"name": "conadv", "staleness": 1, **ATTACK}],
    "ConAdv, staleness 5": [{"name": "conadv", "staleness": 5, **ATTACK}],
}
TIMED: dict[str, list[dict[str, Any]]] = {
    "plain": [],
    "DisAdv": [{"name": "disadv", **ATTACK}],
    "ConAdv 1, attack before the step": [{"name": "conadv", "concurrent": False, **ATTACK}],
    "ConAdv 1, attack beside the step": [{"name": "conadv", **ATTACK}],
}


def job(modulators: list[dict[str, Any]], *, steps: int, lr: float, seed: int, validation: bool = False) -> JobSpec:
    """What is trained."""
    return JobSpec.model_validate(
        {
            "name": "adversarial",
            "recipe": {"target": "robust_recipe.py:PlainDigits", "args": {"validation": validation}},
            "train": {"steps": steps, "seed": seed},
            "batch": {"global_size": 512},
            "optimizer": {"name": "sgd", "lr": lr, "momentum": 0.9, "weight_decay": 5e-4},
            "schedule": {"name": "cosine"},
            "modulators": modulators,
            "checkpoint": {"every": None, "keep": 1},
        }
    )


def train(run: Run) -> tuple[Run, Result]:
    """Train in this process."""
    steps = 3 * STEPS if run.arm == THRICE else STEPS
    spec = job(ARMS[run.arm], steps=steps, lr=run.lr, seed=run.seed, validation=run.validation)
    return run, train_measured(spec)


COMPARISON = Comparison(
    arms=tuple(ARMS), train=train, rates=(0.05, 0.1, 0.2, 0.4), choice_seeds=(100,), seeds=(0, 1, 2, 3, 4)
)


@dataclass(frozen=True)
class Timing:
    """One training that is timed."""

    arm: str
    round: int


class StepTimes:
    """A tracker that keeps the time of every step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """See ``core.protocols.Tracker``."""
        self.seconds.append(metrics["step_s"])

    def event(self, name: str, fields: Mapping[str, Any]) -> None:
        """See ``core.protocols.Tracker``."""

    def close(self) -> None:
        """See ``core.protocols.Tracker``."""


def measure(timing: Timing) -> tuple[Timing, Result]:
    """The median time of a step, in seconds."""
    torch.set_num_threads(1)
    tracker = StepTimes()
    train_alone(job(TIMED[timing.arm], steps=TIMED_STEPS, lr=0.1, seed=0), Path(__file__).parent, tracker)
    return timing, {"step_s": statistics.median(tracker.seconds[SKIPPED_STEPS:])}


def report_times(times: dict[Timing, Result]) -> Iterator[str]:
    """The table of a step's time."""
    yield f"Median of {TIMED_STEPS - SKIPPED_STEPS} steps in each of {ROUNDS} rounds: the median round and its range."
    yield ""
    yield from table_head("arm", "step, ms", "smallest - largest", "x plain")
    plain = statistics.median(times[Timing("plain", r)]["step_s"] for r in range(ROUNDS))
    for arm in TIMED:
        values = [times[Timing(arm, r)]["step_s"] for r in range(ROUNDS)]
        median = statistics.median(values)
        spread = f"{1e3 * min(values):.0f} - {1e3 * max(values):.0f}"
        yield table_row(arm, f"{1e3 * median:.0f}", spread, f"{median / plain:.2f}")


def main() -> None:
    """Make the runs that are missing and print the result page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="JSON-lines file of all trainings; times stand beside")
    parser.add_argument("--processes", type=int, default=1, help="trainings at one time; times are taken one by one")
    arguments = parser.parse_args()
    results, rates = COMPARISON.make(arguments.runs, arguments.processes)
    turns = [Timing(arm, number) for number in range(ROUNDS) for arm in TIMED]
    times = RunFile(arguments.runs.with_suffix(".times.jsonl"), 1, Timing, measure).make(turns)
    cores, load = os.cpu_count(), os.getloadavg()[0]
    print(f"\n# Adversarial learning in step and concurrent, {cores} cores ({platform.machine()}), {date.today()}\n")
    print(f"torch {torch.__version__}; load average at the end {load:.1f}\n")
    print("\n".join([*COMPARISON.report(results, rates), "", "## The time of a step", "", *report_times(times)]))


if __name__ == "__main__":
    main()
