"""What does the orchestrator cost over the bare libraries, on the digits training?

Two questions, answered side by side in one run, the contestants taking turns:

- steady step time of our job against the same training written by hand with torch DDP under torchrun;
- time from the command to the end of the second step against a bare Ray Train TorchTrainer, without and with MLflow.

    python benchmarks/overhead.py --repeats 5 --steps 250
    python benchmarks/overhead.py --repeats 5 --steps 250 --workers 1     # leaves cores to spare on a small machine
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
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
SKIPPED_STEPS = 100
"""Steps at the start that do not count as steady."""


def run_torchrun(folder: Path, steps: int, workers: int) -> dict[str, Any]:
    launcher = [BIN / "torchrun", "--standalone", f"--nproc-per-node={workers}"]
    return _run_peer(launcher, "digits_loop", folder, steps)


def run_ray_train(folder: Path, steps: int, workers: int) -> dict[str, Any]:
    return _run_peer([sys.executable], "ray_train", folder, steps, workers=workers)


def run_ray_train_with_mlflow(folder: Path, steps: int, workers: int) -> dict[str, Any]:
    uri = f"sqlite:///{folder}/mlflow.db"
    return _run_peer([sys.executable], "ray_train", folder, steps, workers=workers, mlflow=uri)


def run_ours(folder: Path, steps: int, workers: int) -> dict[str, Any]:
    """`orchestrator run` on the demo's spec; its first line of metrics is written when the second step ends."""
    overrides = [f"train.steps={steps}", "train.eval_every=null", "checkpoint.every=null", "batch.micro_size=null"]
    overrides += ["schedule.warmup.steps=5", f"resources.workers={workers}"]
    command = [str(BIN / "orchestrator"), "run", str(ROOT / "jobs/digits/demo.yaml"), "--storage", str(folder)]
    command += [item for override in overrides for item in ("--set", override)]
    started = _run(command)
    text = (folder / "digits-lamb" / "metrics.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    return _figures(started, lines[0]["time"], [line["step_s"] for line in lines])


def _run_peer(launcher: list[Any], module: str, folder: Path, steps: int, **extra: Any) -> dict[str, Any]:
    result = folder / "result.json"
    config = json.dumps({"steps": steps, "result": str(result), "args": {}, **extra})
    started = _run([*map(str, launcher), "-m", f"benchmarks.peers.{module}", config])
    left = json.loads(result.read_text(encoding="utf-8"))
    return _figures(started, left["second_step_at"], left["step_s"])


def _run(command: list[str]) -> float:
    """Run to the end; returns when it was started."""
    started = time.time()
    env = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return started


def _figures(started: float, second_step_at: float, step_s: list[float]) -> dict[str, Any]:
    return {"start_s": second_step_at - started, "step_s": statistics.median(step_s[SKIPPED_STEPS:])}


CONTESTANTS: dict[str, Callable[[Path, int, int], dict[str, Any]]] = {
    "torchrun, torch DDP": run_torchrun,
    "orchestrator run": run_ours,
    "bare Ray Train": run_ray_train,
    "bare Ray Train + MLflow": run_ray_train_with_mlflow,
}


def measure(repeats: int, steps: int, workers: int) -> dict[str, list[dict[str, Any]]]:
    """All contestants in turn, ``repeats`` times, after one short run that makes the training images."""
    figures: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTESTANTS}
    with tempfile.TemporaryDirectory() as folder:
        run_torchrun(Path(folder), SKIPPED_STEPS + 10, workers)
    for repeat in range(repeats):
        for name, run in CONTESTANTS.items():
            with tempfile.TemporaryDirectory() as folder:
                got = run(Path(folder), steps, workers)
            print(f"{repeat + 1}/{repeats} {name}: {got}", flush=True)
            figures[name].append(got)
    return figures


def report(figures: dict[str, list[dict[str, Any]]], repeats: int, steps: int, workers: int) -> str:
    """The result page."""

    def ratio(key: str, peer: str) -> str:
        pairs = zip(figures["orchestrator run"], figures[peer], strict=True)
        ratios = sorted(ours[key] / theirs[key] for ours, theirs in pairs)
        return f"{statistics.median(ratios):.3f} ({ratios[0]:.3f} - {ratios[-1]:.3f})"

    def row(name: str) -> str:
        start, step = ([f[key] for f in figures[name]] for key in ("start_s", "step_s"))
        return (
            f"| {name} | {statistics.median(step) * 1e3:.1f} ({min(step) * 1e3:.1f} - {max(step) * 1e3:.1f}) "
            f"| {statistics.median(start):.1f} ({min(start):.1f} - {max(start):.1f}) |"
        )

    return "\n".join(
        [
            "# Overhead of the orchestrator on the digits training",
            "",
            f"`python benchmarks/overhead.py --repeats {repeats} --steps {steps} --workers {workers}`, {date.today()}, "
            f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}.",
            f"Workers: {workers}, of one thread each; global batch 1,024, LAMB. Contestants take turns; medians with",
            "minimum and maximum over the repeats.",
            "",
            "| contestant | steady step, ms | command to end of second step, s |",
            "|---|---|---|",
            *(row(name) for name in CONTESTANTS),
            "",
            "| ratio, ours / peer, pair by pair | median (min - max) | aim |",
            "|---|---|---|",
            f"| steady step / torch DDP under torchrun | {ratio('step_s', 'torchrun, torch DDP')} | 1.03 |",
            f"| steady step / bare Ray Train | {ratio('step_s', 'bare Ray Train')} | |",
            f"| start / bare Ray Train + MLflow | {ratio('start_s', 'bare Ray Train + MLflow')} | 1.15 |",
            f"| start / bare Ray Train without tracking | {ratio('start_s', 'bare Ray Train')} | |",
            "",
            "With as many workers as cores, Ray's own processes take their share of the workers' cores,",
            "with and without us: the row against the bare TorchTrainer is what the orchestrator itself costs.",
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--output", type=Path, default=None, help="default: a dated file beside this script")
    options = parser.parse_args()
    arguments = (options.repeats, options.steps, options.workers)
    text = report(measure(*arguments), *arguments)
    name = f"overhead_{options.workers}-of-{os.cpu_count()}-core-cpu_{date.today()}.md"
    default = ROOT / "benchmarks" / name
    (options.output or default).write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
