"""A job as a training leaves it, small: for the page that tells of it."""

import json
from typing import Any

import numpy as np

from orchestrator.core.run_directory import RunDirectory
from orchestrator.core.worker_times import StepTimes, encode_step

NUM_STEPS = 60
RESUMED_FROM = 30
NODES = ["node-a", "node-a", "node-b"]
LAYERS = ("layers.0.weight", "layers.$1$.weight")
"""One with signs between which matplotlib reads mathematics."""
STARTED_AT = 1_790_000_000.0


def write_event(run: RunDirectory, time: float, name: str, **fields: Any) -> None:
    with run.events_file.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps({"time": time, "event": name, **fields}) + "\n")


def write_metrics(run: RunDirectory, *, scale: float = 1.0, **extra: Any) -> None:
    """Every metric that has a picture."""
    with run.metrics_file.open("a", encoding="utf-8") as stream:
        for step in range(1, NUM_STEPS + 1):
            stream.write(json.dumps(metrics_at(step, scale) | extra) + "\n")


def metrics_at(step: int, scale: float) -> dict[str, Any]:
    size = 32 if step <= 20 else 64
    line: dict[str, Any] = {"step": step, "time": STARTED_AT + 100 + step, "loss": scale * 2.0 / step}
    line |= {"accuracy": 1 - 1 / step, "samples": 32 * step, "lr": 0.01 * min(1.0, step / 10), "global_size": size}
    line |= {"samples_per_s": 300.0 + step, "step_s": 0.1, "batch/noise_scale": 2.0 * step}
    line |= {"trust_ratio/min": 0.01, "trust_ratio/median": 0.02 * step, "trust_ratio/max": 5.0}
    line |= {"delay_mean": 1.5, "delay_p95": 3.0, "delay_max": 4.0}
    if step % 20 == 0:
        line |= {f"trust_ratio/{name}": 0.1 * step * (row + 1) for row, name in enumerate(LAYERS)}
        line |= {"eval/loss": scale * 2.2 / step, "eval/accuracy": 0.9, "eval/perplexity": 3.0 + step}
    return line


def write_worker_times(run: RunDirectory) -> None:
    rng = np.random.default_rng(0)
    with run.worker_times_file.open("ab") as stream:
        for step in range(1, NUM_STEPS + 1):
            seconds = [0.1, 0.11, 0.3] + 0.001 * rng.random(3)
            stream.write(encode_step(StepTimes(step, seconds.tolist(), [64] * 3)))


def write_finished_job(run: RunDirectory) -> None:
    """Two attempts, a change of the batch, a straggler, all metrics."""
    at = STARTED_AT
    start = {"workers": 3, "nodes": NODES, "total_steps": NUM_STEPS, "total_samples": None, "global_size": 32}
    write_event(run, at + 60, "placed", attempt=1, workers=3)
    write_event(run, at + 70, "started", step=0, **start)
    decided = {"noise_scale": 40.0, "lr": 0.01}
    write_event(run, at + 90, "batch", step=5, batch=32, reason="kept: near enough", **decided)
    write_event(run, at + 110, "batch", step=20, batch=64, reason="1 x noise scale <raised>", **decided)
    write_event(run, at + 660, "restarting", cause="worker_lost", message="rank 1 died", budget="1 of 3")
    write_event(run, at + 700, "placed", attempt=2, workers=3)
    write_event(run, at + 710, "resumed", step=RESUMED_FROM, **start)
    slow = {"worker": 2, "node": "node-b", "ratio": 2.7, "since_step": 31, "num_steps": 21}
    write_event(run, at + 720, "straggler", **slow)
    write_event(run, at + 1900, "succeeded", reason=None, message="finished 60 steps")
    write_metrics(run)
    write_worker_times(run)
    times = {"started_at": at, "finished_at": at + 1900}
    run.update_state(phase="succeeded", message="finished 60 steps", attempts=2, step=NUM_STEPS, **times)
