"""What does it cost to measure the gradient's noise, on the text model with two workers?

One engine takes turns of a few steps, measured in every step and in none; every pair of turns gives one ratio. A job
measures every tenth step by default, so a tenth of the difference is what it pays.

    python -m benchmarks.batch_statistics --turns 20 --steps 5
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from benchmarks.engines import ROOT, SEQUENCES, SIZES, WORKERS, batches, our_engine, set_up, spawn
from orchestrator.core.protocols import Engine
from orchestrator.core.values import Measurement
from orchestrator.data.micro_batch import LoadedMicroBatch
from orchestrator.spec.methods.controllers import Statistic

ENGINES: dict[str, dict[str, Any]] = {
    "ddp": {"name": "ddp"},
    "fsdp2": {"name": "fsdp2"},
    **{f"deepspeed, stage {stage}": {"name": "deepspeed", "zero_stage": stage} for stage in range(4)},
    "accelerate, fsdp2": {
        "name": "accelerate",
        "config": {
            "distributed_type": "FSDP",
            "fsdp_config": {
                "fsdp_version": 2,
                "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
                "fsdp_transformer_layer_cls_to_wrap": "Block",
            },
        },
    },
}
MICRO_BATCHES = (1, 4)
"""Backwards of each worker per step."""
EVERY = Statistic().every
"""Steps between two measured ones, by default."""


def take_step(engine: Engine, recipe: Any, batch: dict[str, Any], num_micro: int, *, measured: bool) -> None:
    """One step, and what the loop asks for after it."""
    engine.begin_step(Measurement(num_samples=WORKERS * SEQUENCES) if measured else None)
    for index, rows in enumerate(batch["bytes"].chunk(num_micro)):
        weight = len(rows) / (WORKERS * SEQUENCES)
        micro = LoadedMicroBatch(batch={"bytes": rows}, weight=weight, is_last=index == num_micro - 1)
        engine.forward_backward(micro, recipe.loss)
    engine.step(1e-3)
    engine.measured()


def time_turns(rank: int, folder: str, name: str, num_micro: int, turns: int, steps: int) -> None:
    """One rank; rank 0 leaves seconds per step of every turn, measured and not."""
    recipe = set_up(rank, folder)
    engine = our_engine(recipe, ENGINES[name], Path(folder))
    data = batches(recipe, rank)
    seconds: dict[str, list[float]] = {"measured": [], "plain": []}
    for turn in range(turns + 1):
        for title in list(seconds)[:: 1 if turn % 2 else -1]:
            dist.barrier()
            started = time.perf_counter()
            for index in range(steps):
                take_step(engine, recipe, data[index % len(data)], num_micro, measured=title == "measured")
            seconds[title].append((time.perf_counter() - started) / steps)
    if rank == 0:
        # The first turn allocates.
        text = json.dumps({title: values[1:] for title, values in seconds.items()})
        Path(folder, "result").write_text(text, encoding="utf-8")
    dist.destroy_process_group()


def measure(name: str, num_micro: int, turns: int, steps: int) -> dict[str, list[float]]:
    """Seconds per step by title and turn."""
    with tempfile.TemporaryDirectory() as folder:
        spawn(time_turns, folder, name, num_micro, turns, steps)
        result: dict[str, list[float]] = json.loads(Path(folder, "result").read_text(encoding="utf-8"))
    return result


def row(name: str, num_micro: int, seconds: dict[str, list[float]]) -> str:
    measured, plain = seconds["measured"], seconds["plain"]
    ratios = sorted(one / other for one, other in zip(measured, plain, strict=True))
    quarter = len(ratios) // 4
    spread = f"{statistics.median(ratios):.3f} ({ratios[quarter]:.3f} - {ratios[-1 - quarter]:.3f})"
    cost = (statistics.median(ratios) - 1) / EVERY
    return (
        f"| {name} | {num_micro} | {statistics.median(plain) * 1e3:.1f} | {statistics.median(measured) * 1e3:.1f} "
        f"| {spread} | {cost:+.2%} |"
    )


def report(rows: list[str], turns: int, steps: int) -> str:
    """The result page."""
    return "\n".join(
        [
            "# The cost of measuring the gradient's noise",
            "",
            f"`python -m benchmarks.batch_statistics --turns {turns} --steps {steps}`, {date.today()}, "
            f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
            f"torch {torch.__version__}.",
            f"Text model ({SIZES['depth']} blocks of width {SIZES['width']}), {WORKERS} workers of one thread over "
            f"gloo, {SEQUENCES} sequences each, AdamW, fp32.",
            "Turns of both on one engine, pair by pair; median with the quartiles. The last column is a tenth of the "
            f"difference: by default every {EVERY}th step is measured. Aim: at most 2%.",
            "",
            "| engine | micro-batches | plain, ms | measured, ms | ratio (quartiles) | cost at the default |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--output", type=Path, default=None, help="default: a dated file beside this script")
    options = parser.parse_args()
    rows = []
    for name in options.engines:
        for num_micro in MICRO_BATCHES:
            rows.append(row(name, num_micro, measure(name, num_micro, options.turns, options.steps)))
            print(rows[-1], flush=True)
    text = report(rows, options.turns, options.steps)
    default = ROOT / "benchmarks" / f"batch_statistics_{os.cpu_count()}-core-cpu_{date.today()}.md"
    (options.output or default).write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
