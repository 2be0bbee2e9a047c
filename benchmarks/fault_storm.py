"""Does asynchronous training lose or repeat a sample while its workers, and once a shard, are killed for two minutes?

The same job twice: undisturbed, and with a worker killed every few seconds at random (seeded); the orchestrator puts
others in their places. Which samples an update was of is known without the ledger: the recipe gives every training
image a random code, and each gradient's mean code is a metric. Ends with exit code 1 where a check fails.

    python -m benchmarks.fault_storm --seconds 120 --seed 0
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import psutil

from benchmarks.peers.counted_digits import codes
from orchestrator.spec.push_order import read_order

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
WORKERS, SHARDS = 4, 2
PUSH = 32
NUM_IMAGES = 20_000
"""Whole pushes make an epoch, so that each push is of one epoch."""
GAP_S = (3.0, 8.0)
"""Seconds from one kill to the next."""
SHARD_DIES_AT = 0.5
"""Share of the storm after which a shard is killed."""
START_S = 300.0
ACCURACY_MARGIN = 0.02
"""What the stormed job's accuracy may be below that of the undisturbed one."""


@dataclass(frozen=True, slots=True)
class Storm:
    """What was done to a job."""

    seconds: float
    workers_killed: int
    shards_killed: int


@dataclass(frozen=True, slots=True)
class Job:
    """A job that has ended well, and what it has left."""

    storm: Storm
    wall_s: float
    state: dict[str, Any]
    metrics: list[dict[str, Any]]
    events: Counter[str]
    chunks: list[int]
    """Of the pushes in the order of the updates."""
    workers_lost_early: int
    """Workers that died before they had joined."""


def write_job(folder: Path, epochs: int, sleep_s: float) -> Path:
    """The job in a folder of its own."""
    (folder / "jobs" / "digits").mkdir(parents=True)
    shutil.copy(ROOT / "jobs/digits/recipe.py", folder / "jobs" / "digits")
    shutil.copy(ROOT / "benchmarks/peers/counted_digits.py", folder)
    args = {"sleep_s": sleep_s, "num_train_images": NUM_IMAGES}
    spec = {
        "name": "storm",
        "recipe": {"target": "counted_digits.py:CountedDigits", "args": args},
        "train": {"epochs": epochs},
        "batch": {"global_size": PUSH},
        "optimizer": {"name": "sgd", "lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4},
        "schedule": {"name": "cosine"},
        "exchange": {"name": "asynchronous", "shards": SHARDS, "cpus_per_shard": 0.2},
        "resources": {"workers": WORKERS, "cpus_per_worker": 0.2},
        "checkpoint": {"every": 100},
        "tracking": {"system_metrics_every_s": None},
    }
    (folder / "job.yaml").write_text(json.dumps(spec), encoding="utf-8")
    return folder / "job.yaml"


def run(epochs: int, sleep_s: float, storm_s: float, choice: random.Random) -> Job:
    """Train to the end; ``storm_s`` of 0 disturbs nothing."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        spec = write_job(folder, epochs, sleep_s)
        run_directory = folder / "runs" / "storm"
        env = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
        command = [str(BIN / "orchestrator"), "run", str(spec), "--storage", str(folder / "runs")]
        with (folder / "output.txt").open("w") as output:
            process = subprocess.Popen(command, env=env, stdout=output, stderr=output, start_new_session=True)
        try:
            storm = disturb(process, run_directory, storm_s, choice)
            process.wait()
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
        if process.returncode:
            raise SystemExit(f"{command} failed:\n{(folder / 'output.txt').read_text()[-3000:]}")
        return _left_by(run_directory, storm)


def disturb(process: subprocess.Popen[bytes], run_directory: Path, storm_s: float, choice: random.Random) -> Storm:
    """Kill processes of the job from its first steps on, until the time is over or the job has ended."""
    deadline = time.monotonic() + START_S
    while process.poll() is None and len(_lines(run_directory / "metrics.jsonl")) < 3:
        if time.monotonic() > deadline:
            raise SystemExit(f"no steps within {START_S:g} s")
        time.sleep(0.2)
    began = time.monotonic()
    workers_killed = shards_killed = 0
    while process.poll() is None and (elapsed_s := time.monotonic() - began) < storm_s:
        # Who dies while an attempt starts ends it, as the orchestrator says: that is another question.
        if _state(run_directory)["phase"] != "running":
            time.sleep(0.2)
            continue
        if not shards_killed and elapsed_s > SHARD_DIES_AT * storm_s:
            shards_killed += _kill_one(run_directory, "Shard", choice)
        else:
            workers_killed += _kill_one(run_directory, "Worker", choice)
        time.sleep(min(choice.uniform(*GAP_S), max(0.0, storm_s - (time.monotonic() - began))))
    return Storm(time.monotonic() - began, workers_killed, shards_killed)


def _kill_one(run_directory: Path, kind: str, choice: random.Random) -> int:
    """Kill one of the job's own workers or shards that live, if any does; how many were killed."""
    driver = psutil.Process(_state(run_directory)["driver"]["pid"])
    living = []
    for child in driver.children(recursive=True):
        try:
            if f"ray::{kind}Actor" in " ".join(child.cmdline()):
                living.append(child)
        except psutil.NoSuchProcess:
            continue
    if not living:
        return 0
    try:
        choice.choice(sorted(living, key=lambda child: child.pid)).kill()
    except psutil.NoSuchProcess:
        return 0
    return 1


def _left_by(run_directory: Path, storm: Storm) -> Job:
    events = _lines(run_directory / "events.jsonl")
    state = _state(run_directory)
    lives = Counter((event["worker"], event["life"]) for event in events if event["event"] == "worker_replaced")
    lost = [event for event in events if event["event"] == "worker_lost"]
    return Job(
        storm=storm,
        wall_s=state["finished_at"] - state["started_at"],
        state=state,
        metrics=_lines(run_directory / "metrics.jsonl"),
        events=Counter(event["event"] for event in events),
        chunks=[push.chunk for push in read_order(run_directory / "pushes.csv")],
        workers_lost_early=sum(e["life"] > 1 and (e["worker"], e["life"]) not in lives for e in lost),
    )


def _state(run_directory: Path) -> dict[str, Any]:
    state: dict[str, Any] = json.loads((run_directory / "state.json").read_text(encoding="utf-8"))
    return state


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


def checks(job: Job, calm: Job, epochs: int) -> dict[str, bool]:
    """What must hold of the stormed job, each by its sentence."""
    num_pushes = epochs * NUM_IMAGES // PUSH
    # Of each update the sum of its samples' codes: what was really computed, whatever the ledger says of it.
    sums = [round(line["code"] * PUSH) for line in job.metrics]
    per_epoch: Counter[int] = Counter()
    for chunk, value in zip(job.chunks, sums, strict=False):
        per_epoch[chunk * PUSH // NUM_IMAGES] += value
    expected = int(codes(NUM_IMAGES).sum())
    calm_sums = Counter(round(line["code"] * PUSH) for line in calm.metrics)
    accuracy, calm_accuracy = (j.metrics[-1]["eval/accuracy"] for j in (job, calm))
    return {
        f"every step has one line, 1 to {num_pushes}": [line["step"] for line in job.metrics]
        == list(range(1, num_pushes + 1)),
        "every chunk of the samples was accepted exactly once (pushes.csv)": sorted(job.chunks)
        == list(range(num_pushes)),
        "the codes of each epoch's updates add up to those of all images": per_epoch
        == Counter(dict.fromkeys(range(epochs), expected)),
        "its updates were of the same samples as those of the undisturbed job, in whatever order": Counter(sums)
        == calm_sums,
        f"a shard was killed, and nothing else took an attempt ({job.state['attempts']} attempts)": job.state[
            "attempts"
        ]
        == 1 + job.storm.shards_killed
        == 2,
        f"accuracy {accuracy:.2%}, undisturbed {calm_accuracy:.2%}, at most {ACCURACY_MARGIN:.0%} below": accuracy
        >= calm_accuracy - ACCURACY_MARGIN,
    }


def report(job: Job, calm: Job, results: dict[str, bool], options: argparse.Namespace, command: str) -> str:
    """The result page."""

    def row(name: str, of: Job) -> str:
        last = of.metrics[-1]
        refused = " / ".join(f"{last.get(k, 0):g}" for k in ("fenced_pushes", "duplicate_pushes", "expired_leases"))
        return (
            f"| {name} | {of.storm.workers_killed} | {of.storm.shards_killed} | {of.events['worker_lost']} "
            f"| {of.workers_lost_early} | {of.events['worker_replaced']} | {of.state['attempts']} | {of.wall_s:.0f} "
            f"| {last['delay_mean']:.1f} / {last['delay_max']:.0f} | {refused} "
            f"| {last['eval/loss']:.4f} | {last['eval/accuracy']:.2%} |"
        )

    return "\n".join(
        [
            "# A storm of faults on asynchronous training",
            "",
            f"`{command}`, {date.today()}, {platform.machine()}, {os.cpu_count()} cores, Python "
            f"{platform.python_version()}.",
            f"The digits, {options.epochs} epochs of {NUM_IMAGES:,} images in pushes of {PUSH}, {WORKERS} workers,",
            f"{SHARDS} shards, a checkpoint every 100 updates. For {job.storm.seconds:.0f} s a worker was killed every",
            f"{GAP_S[0]:g} to {GAP_S[1]:g} s (SIGKILL, whichever lives, replacements that start too), and a shard in",
            "the middle; nobody while the job starts anew. Pushes refused are those since its last start.",
            "",
            "| job | workers killed | shards killed | workers lost | not yet joined | replaced | attempts | wall, s "
            "| delay, mean / max | fenced / duplicate / expired | loss | accuracy |",
            "|---|---|---|---|---|---|---|---|---|---|---|---|",
            row("undisturbed", calm),
            row("stormed", job),
            "",
            *(f"- {'holds' if holds else '**FAILS**'}: {sentence}." for sentence, holds in results.items()),
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120.0, help="length of the storm")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=None, help="default: a dated file beside this script")
    options = parser.parse_args()
    # Undisturbed, the job would just take as long as the storm: stormed it takes longer.
    sleep_s = options.seconds * WORKERS * PUSH / (options.epochs * NUM_IMAGES)
    calm = run(options.epochs, sleep_s, 0.0, random.Random(options.seed))
    print(f"undisturbed: {calm.wall_s:.0f} s, accuracy {calm.metrics[-1]['eval/accuracy']:.2%}", flush=True)
    job = run(options.epochs, sleep_s, options.seconds, random.Random(options.seed))
    results = checks(job, calm, options.epochs)
    lengths = f"--seconds {options.seconds:g} --epochs {options.epochs}"
    command = f"python -m benchmarks.fault_storm {lengths} --seed {options.seed}"
    text = report(job, calm, results, options, command)
    default = ROOT / "benchmarks" / f"fault_storm_{os.cpu_count()}-core-cpu_{date.today()}.md"
    (options.output or default).write_text(text, encoding="utf-8")
    print(text)
    sys.exit(0 if all(results.values()) else 1)


if __name__ == "__main__":
    main()
