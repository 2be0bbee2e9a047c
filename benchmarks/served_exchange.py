"""What does the way over shards cost beside gloo's all-reduce, when no worker is slow?

The same job with `exchange: all_reduce` and with `exchange: {name: coded, scheme: uncoded}`, in turn: a model of many
weights and next to no computing, plain SGD, so that a step is the exchange and the update.

    python benchmarks/served_exchange.py --repeats 2 --steps 30
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
SIZES = (1_000_000, 10_000_000, 50_000_000)
WORKERS = (2, 4)
SKIPPED_STEPS = 8
EXCHANGES: dict[str, dict[str, Any]] = {
    "all-reduce": {"name": "all_reduce"},
    "served, 1 shard": {"name": "coded", "scheme": "uncoded", "shards": 1, "cpus_per_shard": 0.5},
    "served, 2 shards": {"name": "coded", "scheme": "uncoded", "shards": 2, "cpus_per_shard": 0.5},
}
Key = tuple[int, int, str]


def run(folder: Path, exchange: dict[str, Any], size: int, workers: int, steps: int) -> float:
    """Median seconds of a steady step."""
    (folder / "recipe.py").write_text((ROOT / "benchmarks/peers/wide_recipe.py").read_text(), encoding="utf-8")
    spec = {
        "name": "wide",
        "recipe": {"target": "recipe.py:Wide", "args": {"parameters": size}},
        "train": {"steps": steps},
        "batch": {"global_size": 64},
        "optimizer": {"name": "sgd", "lr": 0.01},
        "resources": {"workers": workers, "cpus_per_worker": 0.5},
        "checkpoint": {"every": None},
        "tracking": {"system_metrics_every_s": None},
        "exchange": exchange,
    }
    (folder / "job.yaml").write_text(json.dumps(spec), encoding="utf-8")
    command = [str(BIN / "orchestrator"), "run", str(folder / "job.yaml"), "--storage", str(folder / "runs")]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{command} failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    lines = (folder / "runs" / "wide" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    step_s: list[float] = [json.loads(line)["step_s"] for line in lines[SKIPPED_STEPS:]]
    return statistics.median(step_s)


def measure(repeats: int, steps: int) -> dict[Key, list[float]]:
    """Seconds of a step for every size, number of workers and exchange."""
    figures: dict[Key, list[float]] = {}
    for repeat, size, workers, name in itertools.product(range(repeats), SIZES, WORKERS, EXCHANGES):
        with tempfile.TemporaryDirectory() as folder:
            seconds = run(Path(folder), EXCHANGES[name], size, workers, steps)
        print(
            f"{repeat + 1}/{repeats} {size:,} parameters, {workers} workers, {name}: {seconds * 1e3:.1f} ms", flush=True
        )
        figures.setdefault((size, workers, name), []).append(seconds)
    return figures


def report(figures: dict[Key, list[float]], command: str) -> str:
    """The result page."""
    rows = []
    for size, workers in itertools.product(SIZES, WORKERS):
        plain = figures[size, workers, "all-reduce"]
        for name in EXCHANGES:
            seconds = figures[size, workers, name]
            ratios = sorted(ours / theirs for ours, theirs in zip(seconds, plain, strict=True))
            ms = [1e3 * value for value in seconds]
            rows.append(
                f"| {size:,} | {workers} | {name} | {statistics.median(ms):.1f} ({min(ms):.1f} - {max(ms):.1f}) "
                f"| {statistics.median(ratios):.2f} ({ratios[0]:.2f} - {ratios[-1]:.2f}) |"
            )
    return "\n".join(
        [
            "# The served exchange beside all-reduce",
            "",
            f"`{command}`, {date.today()}, {platform.machine()}, {os.cpu_count()} cores, Python "
            f"{platform.python_version()}.",
            "Weights in fp32, plain SGD, next to no computing; all processes share the cores. Median of steady steps",
            "of each run, then over the repeats, with minimum and maximum; ratios pair by pair. Aim: at most 2 at",
            "10,000,000 parameters.",
            "",
            "| parameters | workers | exchange | step, ms | ratio to all-reduce |",
            "|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--output", type=Path, default=None, help="default: a dated file beside this script")
    options = parser.parse_args()
    command = f"python benchmarks/served_exchange.py --repeats {options.repeats} --steps {options.steps}"
    text = report(measure(options.repeats, options.steps), command)
    default = ROOT / "benchmarks" / f"served_exchange_{os.cpu_count()}-core-cpu_{date.today()}.md"
    (options.output or default).write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
