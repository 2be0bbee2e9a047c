"""With one slow worker, how long until the digits are learned: waiting for it, coding around it, or asynchronously?

All workers sleep for every sample that they compute, worker 0 four times as long, whichever exchange asks them to; what
they really compute takes a few milliseconds. An update of the synchronous exchanges is of about 30 samples per worker,
a push of the asynchronous ones as large as one worker's share of it. Learning rate: one base rate per sample of an
update, times a factor that each method chooses from the same few, by the time to the target on a seed of its own.

    python -m benchmarks.asynchronous --workers 4 8 --repeats 3 --factors 0.25 1
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
SECONDS_PER_SAMPLE = 0.005
SLOWDOWN = 4.0
SHARE = 30
"""Samples of a worker's share of a synchronous update, about: backup workers need a batch that divides by one less."""
BASE_LR = 0.1 / 256
"""Learning rate per sample of an update."""
TARGET = 0.3
"""Validation loss, nats."""
MAX_UPDATES = 80
"""Synchronous updates, or as many samples in pushes, after which a job gives up."""
UPDATES_PER_EVALUATION = 2
SEED_OF_GRID = 100
STOP_S = 90.0
POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Method:
    """One way of making updates of several workers' gradients."""

    exchange: dict[str, Any]
    modulators: tuple[str, ...] = ()
    factor_of: str | None = None
    """The method that has chosen its learning rate: one with the same gradients."""

    @property
    def is_asynchronous(self) -> bool:
        """Whether every push is an update."""
        return bool(self.exchange["name"] == "asynchronous")


def coded(scheme: str, **parameters: int) -> dict[str, Any]:
    """A coded exchange."""
    return {"name": "coded", "scheme": scheme, "cpus_per_shard": 0.2, **parameters}


def asynchronous(compensation: str | None = None) -> dict[str, Any]:
    """An asynchronous exchange; one whose weights diverge has not reached the target."""
    return {"name": "asynchronous", "cpus_per_shard": 0.2, "rollbacks": 0, "compensation": compensation}


BASELINE = "all-reduce"
METHODS = {
    BASELINE: Method({"name": "all_reduce"}),
    "coded, uncoded": Method(coded("uncoded"), factor_of=BASELINE),
    "coded, one backup": Method(coded("backup", backups=1)),
    "coded, fractional, 2 copies": Method(coded("fractional", stragglers=1), factor_of=BASELINE),
    "asynchronous": Method(asynchronous()),
    "asynchronous, braking": Method(asynchronous(), modulators=("adaptive_braking",)),
    "asynchronous, staleness-aware": Method(asynchronous("staleness_aware")),
    "asynchronous, Gap-Aware": Method(asynchronous("gap_aware")),
}


@dataclass(frozen=True, slots=True)
class Reached:
    """When a job came to the target."""

    seconds: float
    """From the moment at which the last worker was ready; infinite where it never came there."""
    samples: float
    delay_mean: float
    delay_p95: float


NEVER = Reached(math.inf, math.inf, math.nan, math.nan)


def update_size(workers: int) -> int:
    """Samples of a synchronous update: divides by all workers, and by all but one."""
    unit = workers * (workers - 1)
    return max(1, round(SHARE * workers / unit)) * unit


def write_job(folder: Path, method: Method, workers: int, factor: float, seed: int, max_updates: int) -> None:
    """The job of one run, in its own folder."""
    gate = folder / "gate"
    gate.mkdir()
    (folder / "jobs" / "digits").mkdir(parents=True)
    shutil.copy(ROOT / "jobs/digits/recipe.py", folder / "jobs" / "digits")
    shutil.copy(ROOT / "benchmarks/peers/slow_digits.py", folder)
    size = update_size(workers)
    pushes = workers if method.is_asynchronous else 1
    args = {
        "seconds_per_sample": SECONDS_PER_SAMPLE,
        "slowdown": SLOWDOWN,
        "workers": workers,
        "gate": str(gate),
    }
    spec = {
        "name": "slow",
        "recipe": {"target": "slow_digits.py:SlowDigits", "args": args},
        "train": {"steps": max_updates * pushes, "eval_every": UPDATES_PER_EVALUATION * pushes, "seed": seed},
        "batch": {"global_size": size // pushes},
        "optimizer": {
            "name": "sgd",
            "lr": BASE_LR * factor * (size // pushes),
            "momentum": 0.9,
            "weight_decay": 5e-4,
        },
        "exchange": method.exchange,
        "modulators": list(method.modulators),
        "resources": {"workers": workers, "cpus_per_worker": 0.2},
        "checkpoint": {"every": None},
        "tracking": {"system_metrics_every_s": None},
    }
    (folder / "job.yaml").write_text(json.dumps(spec), encoding="utf-8")


def run(method: Method, workers: int, factor: float, seed: int, max_updates: int) -> Reached:
    """Train until the target is reached, and end the job then."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_job(folder, method, workers, factor, seed, max_updates)
        env = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
        command = [str(BIN / "orchestrator"), "run", str(folder / "job.yaml"), "--storage", str(folder / "runs")]
        with (folder / "output.txt").open("w") as output:
            process = subprocess.Popen(command, env=env, stdout=output, stderr=output, start_new_session=True)
        try:
            reached = _wait(process, folder)
        finally:
            _end(process)
        if reached is None and process.returncode and not _has_diverged(folder):
            raise SystemExit(f"{command} failed:\n{(folder / 'output.txt').read_text()[-3000:]}")
    return reached or NEVER


def _wait(process: subprocess.Popen[bytes], folder: Path) -> Reached | None:
    """Read the metrics as they come; None where the job ends before it has reached the target."""
    path = folder / "runs" / "slow" / "metrics.jsonl"
    while True:
        has_ended = process.poll() is not None
        text = path.read_bytes() if path.exists() else b""
        lines = [json.loads(line) for line in text.split(b"\n")[:-1]]
        for index, line in enumerate(lines):
            if float(line.get("eval/loss", math.inf)) > TARGET or not math.isfinite(float(line["eval/loss"])):
                continue
            # A line is written at the end of the step after its own; the last one at once.
            if index + 1 < len(lines):
                return _reached(line, float(lines[index + 1]["step_s"]), folder)
            if has_ended:
                return _reached(line, 0.0, folder)
        if has_ended:
            return None
        time.sleep(POLL_S)


def _reached(line: dict[str, Any], later_s: float, folder: Path) -> Reached:
    began = max(file.stat().st_mtime for file in (folder / "gate").iterdir())
    return Reached(
        seconds=line["time"] - later_s - began,
        samples=line["samples"],
        delay_mean=line.get("delay_mean", math.nan),
        delay_p95=line.get("delay_p95", math.nan),
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    """As Ctrl-C: after the current step; then at once."""
    for _ in range(2):
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                continue
    if process.poll() is None:
        process.kill()
        process.wait()


def _has_diverged(folder: Path) -> bool:
    state = folder / "runs" / "slow" / "state.json"
    return state.exists() and json.loads(state.read_text(encoding="utf-8")).get("reason") == "diverged"


def choose_factors(workers: int, factors: list[float], max_updates: int) -> dict[str, float]:
    """The factor with which each method reaches the target first; the smallest where none does."""
    chosen: dict[str, float] = {}
    for name, method in METHODS.items():
        if method.factor_of is not None:
            chosen[name] = chosen[method.factor_of]
        elif len(factors) == 1:
            chosen[name] = factors[0]
        else:
            seconds = {factor: run(method, workers, factor, SEED_OF_GRID, max_updates).seconds for factor in factors}
            chosen[name] = min(sorted(factors), key=lambda factor: seconds[factor])
            said = ", ".join(f"{factor:g}: {value:.1f} s" for factor, value in seconds.items())
            print(f"{workers} workers, {name}: {said}; takes {chosen[name]:g}", flush=True)
    return chosen


def measure(workers: int, repeats: int, chosen: dict[str, float], max_updates: int) -> dict[str, list[Reached]]:
    """Every method's time to the target in every repeat, methods in turn, each repeat with a seed of its own."""
    figures: dict[str, list[Reached]] = {name: [] for name in METHODS}
    for repeat in range(repeats):
        for name, method in METHODS.items():
            reached = run(method, workers, chosen[name], repeat, max_updates)
            print(
                f"{workers} workers, {repeat + 1}/{repeats} {name}: {reached.seconds:.1f} s, "
                f"{reached.samples:g} samples, delay {reached.delay_mean:.1f}",
                flush=True,
            )
            figures[name].append(reached)
    return figures


def table(workers: int, figures: dict[str, list[Reached]], chosen: dict[str, float]) -> list[str]:
    """One number of workers."""

    def row(name: str) -> str:
        all_of = figures[name]
        seconds = [reached.seconds for reached in all_of]
        pairs = zip(seconds, [reached.seconds for reached in figures[BASELINE]], strict=True)
        ratios = sorted(ours / theirs if math.isfinite(theirs) else math.nan for ours, theirs in pairs)
        samples = statistics.median(reached.samples for reached in all_of)
        delays = [reached for reached in all_of if not math.isnan(reached.delay_mean)]
        delay = "-"
        if delays:
            mean, p95 = (statistics.median(getattr(d, f"delay_{what}") for d in delays) for what in ("mean", "p95"))
            delay = f"{mean:.1f} / {p95:.0f}"
        return (
            f"| {name} | {chosen[name]:g} | {_spread(seconds, 1)} | {_spread(ratios, 2)} | {samples:,.0f} | {delay} |"
        )

    size = update_size(workers)
    return [
        f"## {workers} workers",
        "",
        f"Synchronous updates of {size} samples, pushes of {size // workers}.",
        "",
        "| exchange | factor | seconds to the target | ratio to all-reduce | samples | delay, mean / p95 |",
        "|---|---|---|---|---|---|",
        *(row(name) for name in figures),
        "",
    ]


def _spread(values: list[float], digits: int) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} - {max(values):.{digits}f})"


def report(tables: list[str], options: argparse.Namespace, command: str) -> str:
    """The result page."""
    factors = ", ".join(f"{factor:g}" for factor in options.factors)
    return "\n".join(
        [
            "# Asynchronous training with one slow worker",
            "",
            f"`{command}`, {date.today()}, {platform.machine()}, {os.cpu_count()} cores, Python "
            f"{platform.python_version()}.",
            f"The digits to a validation loss of {TARGET:g}, looked at every {UPDATES_PER_EVALUATION} synchronous",
            f"updates' samples, within {options.max_updates} updates. Workers sleep {SECONDS_PER_SAMPLE * 1e3:g} ms",
            f"for each sample that they compute, worker 0 {SLOWDOWN:g} times as long; computing takes a few",
            "milliseconds. All sleep in the recipe's loss, so that copies and spare samples are paid for; a worker",
            "that is asleep notices only afterwards that a step has closed without it. The time counts from the",
            "moment at which all workers have begun their first loss.",
            "",
            f"SGD with momentum 0.9, constant rate: {BASE_LR * 256:g} x samples of an update / 256 x a factor out of",
            f"{factors}, with which the method reached the target first on a seed that the repeats do not use (the",
            "exact synchronous exchanges take that of all-reduce). Medians over the repeats with minimum and maximum,",
            "methods in turn, a seed for each repeat; ratios pair by pair; inf has not reached the target. Samples:",
            "those until the target. Aim: asynchronous with braking at most 0.5.",
            "",
            *tables,
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--factors", type=float, nargs="+", default=[0.25, 1.0], help="one: takes it untried")
    parser.add_argument("--max-updates", type=int, default=MAX_UPDATES)
    parser.add_argument("--output", type=Path, default=None, help="default: a dated file beside this script")
    options = parser.parse_args()
    command = (
        f"python -m benchmarks.asynchronous --workers {' '.join(map(str, options.workers))} "
        f"--repeats {options.repeats} --factors {' '.join(f'{factor:g}' for factor in options.factors)} "
        f"--max-updates {options.max_updates}"
    )
    tables = []
    for workers in options.workers:
        chosen = choose_factors(workers, options.factors, options.max_updates)
        tables += table(workers, measure(workers, options.repeats, chosen, options.max_updates), chosen)
    text = report(tables, options, command)
    default = ROOT / "benchmarks" / f"asynchronous_{os.cpu_count()}-core-cpu_{date.today()}.md"
    (options.output or default).write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
