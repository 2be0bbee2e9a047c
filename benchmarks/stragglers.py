"""How much does a coded exchange save when workers are slow now and then?

Eight workers wait as the simulator's reference trace says (slow ones ten times as long), compute next to nothing, and
take the same steps under torch DDP (bare Ray Train) and under our schemes, in turn. What the simulator predicted for
the same rounds stands beside it.

    python benchmarks/stragglers.py --repeats 3 --rounds 60
"""

from __future__ import annotations

import argparse
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

import numpy as np

from orchestrator.core.coding.build import build_scheme
from orchestrator.core.coding.waiting import WaitRule
from orchestrator.simulate.stragglers.reference import FASTEST_S, PER_BATCH_S, reference
from orchestrator.simulate.stragglers.replay import replay
from orchestrator.simulate.stragglers.trace import Trace, additive

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
WORKERS = 8
FASTEST_WORKER_S = 0.3
SLOWDOWN = 10.0
SKIPPED_ROUNDS = 5
"""Rounds at the start that do not count: workers are still joining."""
SCHEMES: dict[str, dict[str, Any]] = {
    "fractional, 2 copies": {"scheme": "fractional", "stragglers": 1},
    "fractional, 4 copies": {"scheme": "fractional", "stragglers": 3},
    "ignore the last": {"scheme": "ignore", "stragglers": 1},
    "one backup": {"scheme": "backup", "backups": 1},
}
DDP = "torch DDP, bare Ray Train"


def slow_trace(rounds: int) -> Trace:
    """The reference trace, with slow workers that take ten times as long as the fastest."""
    scale = FASTEST_WORKER_S / FASTEST_S
    delays = reference(rounds, WORKERS).fixed_s * scale
    is_slow = delays >= 2 * FASTEST_WORKER_S
    return additive(np.where(is_slow, SLOWDOWN * FASTEST_WORKER_S, delays), PER_BATCH_S * scale)


def predicted_s(trace: Trace, exchange: dict[str, Any]) -> float:
    """Seconds of the rounds that count, by the simulator."""
    parameters = {name: value for name, value in exchange.items() if name != "scheme"}
    scheme = build_scheme(exchange["scheme"], WORKERS, **parameters)
    result = replay(trace, scheme, WaitRule(kind="first"), num_jobs=trace.num_rounds)
    assert result is not None  # there is no limit
    return float(result.round_s[SKIPPED_ROUNDS:].sum())


def run_ours(folder: Path, exchange: dict[str, Any], trace: Trace) -> float:
    """Seconds of the rounds that count, of one job."""
    (folder / "recipe.py").write_text((ROOT / "benchmarks/peers/small_recipe.py").read_text(), encoding="utf-8")
    inject = {"delays": "delays.csv", "seconds_per_batch": float(trace.per_batch_s[0, 0])}
    spec = {
        "name": "slow",
        "recipe": {"target": "recipe.py:Small"},
        "train": {"steps": trace.num_rounds},
        # Divides by eight workers, and by seven that count beside a backup.
        "batch": {"global_size": 448},
        "optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9},
        "resources": {"workers": WORKERS, "cpus_per_worker": 0.5},
        "checkpoint": {"every": None},
        "tracking": {"system_metrics_every_s": None},
        "exchange": {"name": "coded", "inject": inject, **exchange},
    }
    (folder / "job.yaml").write_text(json.dumps(spec), encoding="utf-8")
    _run([BIN / "orchestrator", "run", folder / "job.yaml", "--storage", folder / "runs"])
    text = (folder / "runs" / "slow" / "metrics.jsonl").read_text(encoding="utf-8")
    return float(sum(json.loads(line)["step_s"] for line in text.splitlines()[SKIPPED_ROUNDS:]))


def run_ddp(folder: Path, trace: Trace) -> float:
    """The same of the peer."""
    config = {
        "delays": str(folder / "delays.csv"),
        "seconds_per_batch": float(trace.per_batch_s[0, 0]),
        "workers": WORKERS,
        "result": str(folder / "result.json"),
    }
    _run([sys.executable, "-m", "benchmarks.peers.slow_ddp", json.dumps(config)])
    step_s: list[float] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return sum(step_s[SKIPPED_ROUNDS:])


def _run(command: list[Any]) -> None:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(list(map(str, command)), cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{command} failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")


def measure(repeats: int, trace: Trace, schemes: dict[str, dict[str, Any]]) -> dict[str, list[float]]:
    """Seconds of every contestant in every repeat."""
    figures: dict[str, list[float]] = {name: [] for name in (DDP, *schemes)}
    for repeat in range(repeats):
        for name in figures:
            with tempfile.TemporaryDirectory() as temporary:
                folder = Path(temporary)
                np.savetxt(folder / "delays.csv", trace.fixed_s, delimiter=",", fmt="%.6f")
                seconds = run_ddp(folder, trace) if name == DDP else run_ours(folder, schemes[name], trace)
            print(f"{repeat + 1}/{repeats} {name}: {seconds:.2f} s", flush=True)
            figures[name].append(seconds)
    return figures


def report(figures: dict[str, list[float]], trace: Trace, command: str) -> str:
    """The result page."""
    per_batch_s = float(trace.per_batch_s[0, 0])
    num_rounds = trace.num_rounds - SKIPPED_ROUNDS

    def row(name: str) -> str:
        seconds, ddp = figures[name], figures[DDP]
        ratios = sorted(ours / theirs for ours, theirs in zip(seconds, ddp, strict=True))
        foreseen = predicted_s(trace, SCHEMES.get(name, {"scheme": "uncoded"}))
        off = statistics.median(seconds) / foreseen - 1
        return (
            f"| {name} | {statistics.median(seconds):.1f} ({min(seconds):.1f} - {max(seconds):.1f}) "
            f"| {statistics.median(ratios):.3f} ({ratios[0]:.3f} - {ratios[-1]:.3f}) | {foreseen:.1f} | {off:+.1%} |"
        )

    return "\n".join(
        [
            "# Coded steps with slow workers",
            "",
            f"`{command}`, {date.today()}, {platform.machine()}, {os.cpu_count()} cores, Python "
            f"{platform.python_version()}.",
            f"{WORKERS} workers wait as the reference trace says: {FASTEST_WORKER_S:g} s and a little more, slow ones",
            f"{SLOWDOWN:g} times as long, and each its share of {per_batch_s:.3f} s for a batch; they",
            f"compute next to nothing. Seconds of {num_rounds} rounds, contestants in turn, medians with minimum and",
            "maximum over the repeats; ratios pair by pair. Predicted: the simulator on the same trace, which knows",
            "waiting only.",
            "",
            "| contestant | seconds | ratio to torch DDP | predicted, s | off by |",
            "|---|---|---|---|---|",
            *(row(name) for name in figures),
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--output", type=Path, default=None, help="default: a dated file beside this script")
    options = parser.parse_args()
    trace = slow_trace(options.rounds)
    command = f"python benchmarks/stragglers.py --repeats {options.repeats} --rounds {options.rounds}"
    text = report(measure(options.repeats, trace, SCHEMES), trace, command)
    default = ROOT / "benchmarks" / f"stragglers_{os.cpu_count()}-core-cpu_{date.today()}.md"
    (options.output or default).write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
