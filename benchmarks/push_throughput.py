"""How many pushes does an asynchronous training accept, how many bytes are that, and where does the time go?

Jobs whose gradients cost next to nothing, so that an update is its push; beside them bare Ray actors that push the same
arrays and do nothing with them, and each part of a push's way alone.

    python -m benchmarks.push_throughput            # --quick: the smallest model only
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
PIECES = 4
UPDATES = {1_000_000: 400, 10_000_000: 80, 50_000_000: 30}
"""Updates of a job, by the model's size."""
SHAPES = ((1, 1), (2, 1), (4, 1), (8, 1), (4, 2), (4, 4))
"""(workers, shards)."""
SKIPPED = 0.25
"""Share of the updates at the start that does not count: workers are still joining."""
BYTES = 4


@dataclass(frozen=True, slots=True)
class Figure:
    """One job."""

    pushes_per_s: float
    worker_s: float
    """Mean of what a worker takes for a gradient: to ask for the weights, take them over and compute; NaN where no
    time was told in the part that counts."""
    delay_mean: float
    refused: float


Case = tuple[int, int, int]
"""(parameters, workers, shards)."""


def run(case: Case) -> Figure:
    """Train for some updates."""
    parameters, workers, shards = case
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        shutil.copy(ROOT / "benchmarks/peers/free_recipe.py", folder)
        spec = {
            "name": "free",
            "recipe": {"target": "free_recipe.py:Free", "args": {"parameters": parameters, "pieces": PIECES}},
            "train": {"steps": UPDATES[parameters]},
            "batch": {"global_size": 1},
            "optimizer": {"name": "sgd", "lr": 0.01},
            "resources": {"workers": workers, "cpus_per_worker": 0.2},
            "checkpoint": {"every": None},
            "tracking": {"system_metrics_every_s": None},
            "exchange": {"name": "asynchronous", "shards": shards, "cpus_per_shard": 0.2},
        }
        (folder / "job.yaml").write_text(json.dumps(spec), encoding="utf-8")
        _output_of([BIN / "orchestrator", "run", folder / "job.yaml", "--storage", folder / "runs"])
        return _figure(folder / "runs" / "free")


def _figure(run_directory: Path) -> Figure:
    lines = _lines(run_directory / "metrics.jsonl")
    # The last line is written with the one before.
    lines = lines[int(SKIPPED * len(lines)) : -1]
    first, last = lines[0], lines[-1]
    steps = range(first["step"], last["step"] + 1)
    times = [line["seconds"] for line in _lines(run_directory / "worker_times.jsonl") if line["step"] in steps]
    seconds = [value for line in times for value in line if value is not None]
    refused = ("stale_pushes", "duplicate_pushes", "fenced_pushes", "refused_pushes")
    return Figure(
        pushes_per_s=(last["step"] - first["step"]) / (last["time"] - first["time"]),
        worker_s=sum(seconds) / len(seconds) if seconds else math.nan,
        delay_mean=last["delay_mean"],
        refused=sum(last[name] for name in refused),
    )


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def bare(cases: list[Case]) -> tuple[dict[Case, float], dict[int, dict[str, float]]]:
    """Pushes per second of bare Ray in every case, and the seconds of each part for every size."""
    # About as many pushes in all as the job accepts.
    arguments = [[*case, max(5, UPDATES[case[0]] // case[1])] for case in cases]
    output = _output_of([sys.executable, "-m", "benchmarks.peers.bare_push", json.dumps(arguments)])
    result = json.loads(output.splitlines()[-1])
    rates = dict(zip(cases, result["pushes_per_s"], strict=True))
    return rates, {int(parameters): parts for parameters, parts in result["parts"].items()}


def _output_of(command: list[Any]) -> str:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(list(map(str, command)), cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{command} failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return done.stdout


def report(
    figures: dict[Case, Figure], rates: dict[Case, float], parts: dict[int, dict[str, float]], command: str
) -> str:
    """The result page."""

    def row(case: Case) -> str:
        parameters, workers, shards = case
        ours, limit = figures[case], rates[case]
        gb = parameters * BYTES / 1e9
        return (
            f"| {parameters:,} | {workers} | {shards} | {ours.pushes_per_s:.1f} | {ours.pushes_per_s * gb:.2f} "
            f"| {limit:.1f} | {limit * gb:.2f} | {ours.pushes_per_s / limit:.2f} "
            f"| {1e3 / ours.pushes_per_s:.1f} | {1e3 * ours.worker_s:.1f} | {ours.delay_mean:.1f} | {ours.refused:g} |"
        )

    def part_row(name: str) -> str:
        cells = (f"{1e3 * parts[size][name]:.2f} ({size * BYTES / 1e9 / parts[size][name]:.2f})" for size in parts)
        return f"| {name} | {' | '.join(cells)} |"

    def sum_row(what: str) -> str:
        cells = (f"{1e3 * sum(s for n, s in parts[size].items() if n.startswith(what)):.2f}" for size in parts)
        return f"| {what}, together | {' | '.join(cells)} |"

    names = list(next(iter(parts.values())))
    return "\n".join(
        [
            "# Pushes of asynchronous training",
            "",
            f"`{command}`, {date.today()}, {platform.machine()}, {os.cpu_count()} cores, Python "
            f"{platform.python_version()}.",
            "Weights and messages in fp32, plain SGD, a gradient that costs one pass over memory, overlap on; all",
            "processes share the cores. Every push is an update. Bare Ray: as many actors push the same arrays to as",
            "many others, wait for the answer, and nothing is done with them. A worker's time is from asking for the",
            "weights to the gradient.",
            "",
            "| parameters | workers | shards | accepted / s | GB/s | bare Ray / s | GB/s | ratio | ms between updates "
            "| worker, ms | mean delay | not accepted |",
            "|---|---|---|---|---|---|---|---|---|---|---|---|",
            *(row(case) for case in figures),
            "",
            "## Where the time goes",
            "",
            "Each part alone, nothing beside it, one shard: median ms (GB/s). What a shard does lies on the way from",
            "one update to the next; workers work side by side, as far as there are cores. Besides its arrays a push",
            "takes three calls: the lease, the newest weights, the word to the coordinator.",
            "",
            f"| part | {' | '.join(f'{size:,}' for size in parts)} |",
            f"|---|{'---|' * len(parts)}",
            *(part_row(name) for name in names),
            *(sum_row(what) for what in ("worker", "shard")),
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the smallest model, few shapes")
    parser.add_argument("--output", type=Path, default=None, help="default: a dated file beside this script")
    options = parser.parse_args()
    sizes = list(UPDATES)[: 1 if options.quick else None]
    shapes = ((1, 1), (2, 2)) if options.quick else SHAPES
    cases = [(size, workers, shards) for size in sizes for workers, shards in shapes]
    rates, parts = bare(cases)
    figures = {}
    for case in cases:
        figures[case] = run(case)
        print(f"{case}: {figures[case]}, bare Ray {rates[case]:.1f} / s", flush=True)
    command = "python -m benchmarks.push_throughput" + (" --quick" if options.quick else "")
    text = report(figures, rates, parts, command)
    default = ROOT / "benchmarks" / f"push_throughput_{os.cpu_count()}-core-cpu_{date.today()}.md"
    (options.output or default).write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
