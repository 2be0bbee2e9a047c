"""How long from a submission to a warm cluster until a training takes its steps, beside `ray job submit`?

One cluster on this machine, warmed up, and jobs of two workers one after another: the digits job through
`orchestrator submit`, and the same training written by hand as a TorchTrainer script through `ray job submit`, without
tracking and with MLflow. Each is timed from the start of its command until its second step has ended, and is waited
for before the next begins.

    python -m benchmarks.submit --repeats 5
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
import time
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from orchestrator.launch.local_nodes import LocalCluster

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
WORKERS = 2
STEPS = 20
Run = Callable[[LocalCluster, Path], float]
"""Submits one job that leaves its files in a folder; returns the seconds."""


def run_ours(cluster: LocalCluster, folder: Path) -> float:
    """The first line of metrics is written when the second step ends."""
    overrides = ["train.eval_every=null", "checkpoint.every=null", "batch.micro_size=null", "schedule.warmup.steps=5"]
    overrides += [f"train.steps={STEPS}", f"resources.workers={WORKERS}", f"name={folder.name}"]
    command = [
        BIN / "orchestrator",
        "submit",
        ROOT / "jobs/digits/demo.yaml",
        "--follow",
        "--address",
        cluster.record.address,
    ]
    command += ["--storage", folder, *(item for override in overrides for item in ("--set", override))]
    started = _run(cluster, command)
    (metrics,) = folder.glob("*/metrics.jsonl")
    second_step_at: float = json.loads(metrics.read_text(encoding="utf-8").splitlines()[0])["time"]
    return second_step_at - started


def run_peer(cluster: LocalCluster, folder: Path, *, with_mlflow: bool) -> float:
    """A TorchTrainer script, whose folder is uploaded as ours is."""
    config: dict[str, Any] = {"steps": STEPS, "workers": WORKERS, "cluster": True, "args": {}}
    config["result"] = str(folder / "result.json")
    if with_mlflow:
        config["mlflow"] = f"sqlite:///{folder}/mlflow.db"
    command = [
        BIN / "ray",
        "job",
        "submit",
        "--address",
        cluster.record.address,
        "--working-dir",
        ROOT / "jobs/digits",
        "--",
    ]
    script = [sys.executable, "-m", "benchmarks.peers.ray_train", json.dumps(config)]
    started = _run(cluster, [*command, "env", f"PYTHONPATH={ROOT}", *script])
    second_step_at: float = json.loads(Path(config["result"]).read_text(encoding="utf-8"))["second_step_at"]
    return second_step_at - started


CONTESTANTS: dict[str, Run] = {
    "orchestrator submit": run_ours,
    "ray job submit": partial(run_peer, with_mlflow=False),
    "ray job submit, with MLflow": partial(run_peer, with_mlflow=True),
}
OURS = next(iter(CONTESTANTS))


def _run(cluster: LocalCluster, command: list[Any]) -> float:
    """Run to the end; returns when it was started."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", **cluster.record.environment}
    started = time.time()
    done = subprocess.run(list(map(str, command)), cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return started


def measure(repeats: int) -> dict[str, list[float]]:
    """Seconds of all contestants in turn, after one round that warms the cluster up."""
    seconds: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    with LocalCluster(num_nodes=0, cpus_per_node=0, head_cpus=WORKERS) as cluster:
        for repeat in range(repeats + 1):
            for name, run in CONTESTANTS.items():
                with tempfile.TemporaryDirectory() as parent:
                    folder = Path(parent, f"job-{repeat}-{list(CONTESTANTS).index(name)}")
                    folder.mkdir()
                    got = run(cluster, folder)
                print(f"{repeat}/{repeats} {name}: {got:.1f} s", flush=True)
                if repeat:
                    seconds[name].append(got)
    return seconds


def report(seconds: dict[str, list[float]], repeats: int) -> str:
    """The result page."""

    def row(name: str) -> str:
        values = seconds[name]
        ratios = sorted(ours / theirs for ours, theirs in zip(seconds[OURS], values, strict=True))
        times = f"{statistics.median(values):.1f} ({min(values):.1f} - {max(values):.1f})"
        return f"| {name} | {times} | {statistics.median(ratios):.2f} ({ratios[0]:.2f} - {ratios[-1]:.2f}) |"

    return "\n".join(
        [
            "# From a submission to the first steps",
            "",
            f"`python -m benchmarks.submit --repeats {repeats}`, {date.today()}, {platform.machine()}, "
            f"{os.cpu_count()} cores, Python {platform.python_version()}.",
            f"A warm one-node cluster; the digits training, {WORKERS} workers of one thread each. Contestants take",
            "turns; seconds from the start of the command to the end of the second step, medians with minimum and",
            "maximum; ours / theirs pair by pair. Aim: at most 1.2.",
            "",
            "| contestant | seconds | ours / this one |",
            "|---|---|---|",
            *map(row, CONTESTANTS),
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, default=None, help="default: a dated file beside this script")
    options = parser.parse_args()
    text = report(measure(options.repeats), options.repeats)
    default = ROOT / "benchmarks" / f"submit_{os.cpu_count()}-core-cpu_{date.today()}.md"
    (options.output or default).write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
