"""Arms of a comparison, each at the learning rate that is best for it, over several seeds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.learning import LastEvaluation, table_head, table_row, train_alone
from benchmarks.run_file import Result, RunFile
from orchestrator.core.errors import DivergedError
from orchestrator.spec.job import JobSpec


@dataclass(frozen=True)
class Run:
    """One training."""

    arm: str
    lr: float
    seed: int
    validation: bool = False


def train_measured(spec: JobSpec) -> Result:
    """Train a recipe of this folder in this process, with one thread.

    Returns:
        ``accuracy`` and ``loss``, None where loss or gradients are no longer finite; ``steps``; ``cpu_s``.
    """
    torch.set_num_threads(1)
    tracker, started = LastEvaluation(), time.process_time()
    try:
        train_alone(spec, Path(__file__).parent, tracker)
    except DivergedError:
        tracker.metrics.clear()
    found = {name: tracker.metrics.get(f"eval/{name}") for name in ("accuracy", "loss")}
    return {**found, "steps": tracker.step, "cpu_s": round(time.process_time() - started, 2)}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What is run, and its tables."""

    arms: tuple[str, ...]
    train: Callable[[Run], tuple[Run, Result]]
    """Makes one run, at the top level of a module."""
    rates: tuple[float, ...]
    """Among which every arm's is chosen, by the mean accuracy on images for choosing."""
    choice_seeds: tuple[int, ...]
    seeds: tuple[int, ...]
    """Of what is reported, at the rate that was chosen."""

    def make(self, path: Path, processes: int) -> tuple[dict[Run, Result], dict[str, float]]:
        """All runs, those that the file does not hold yet made now; and every arm's rate."""
        choices = [run for arm in self.arms for run in self._choices(arm)]
        runs = RunFile(path, processes, Run, self.train)
        results = runs.make(choices)
        rates = {arm: self._best(arm, results) for arm in self.arms}
        # Seed by seed: what else the machine does meanwhile falls on all arms alike.
        wanted = [Run(arm, lr, seed) for seed in self.seeds for arm, lr in rates.items()]
        return runs.make(wanted), rates

    def report(self, results: dict[Run, Result], rates: dict[str, float]) -> Iterator[str]:
        """Accuracies, and what rates were chosen among."""
        yield f"Accuracy in % on held-out images, mean and standard deviation of {len(self.seeds)} seeds, and CPU time."
        yield ""
        yield from table_head("arm", "rate", "accuracy", "smallest - largest", "CPU s")
        for arm, lr in rates.items():
            found = [results[Run(arm, lr, seed)] for seed in self.seeds]
            values = [_percent(result) for result in found]
            spread = f"{min(values):.2f} - {max(values):.2f}"
            seconds = statistics.mean(result["cpu_s"] for result in found)
            mean = f"{statistics.mean(values):.2f} +- {statistics.stdev(values):.2f}"
            yield table_row(arm, f"{lr:g}", mean, spread, f"{seconds:.1f}")
        yield ""
        seeds = ", ".join(map(str, self.choice_seeds))
        yield f"The choice of the rate: mean accuracy in % on images for choosing, seeds {seeds}."
        yield ""
        yield from table_head("arm", *(f"{lr:g}" for lr in self.rates))
        for arm in self.arms:
            yield table_row(arm, *(f"{self._mean(arm, lr, results):.2f}" for lr in self.rates))

    def _choices(self, arm: str) -> list[Run]:
        return [Run(arm, lr, seed, validation=True) for lr in self.rates for seed in self.choice_seeds]

    def _best(self, arm: str, results: dict[Run, Result]) -> float:
        return max(self.rates, key=lambda lr: self._mean(arm, lr, results))

    def _mean(self, arm: str, lr: float, results: dict[Run, Result]) -> float:
        return statistics.mean(_percent(results[run]) for run in self._choices(arm) if run.lr == lr)


def _percent(result: Result) -> float:
    """A training that diverged guesses."""
    return 10.0 if result["accuracy"] is None else 100.0 * float(result["accuracy"])
