"""What does each modulator cost: time, bytes on the wire, memory? The digits net on two workers.

Two jobs, one plain and one with the modulator, are assembled as the product assembles them and take turns of a few
steps in one pair of processes; every pair of turns gives one ratio. Bytes are counted where they are handed to
`torch.distributed`, memory is the most that tensors made in one step hold at once. Modulators that act at every tenth
step are measured over turns of ten steps, of which one is theirs.

    python -m benchmarks.modulators --turns 12 --steps 10
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from benchmarks.engines import WORKERS, spawn
from benchmarks.learning import LastEvaluation
from orchestrator.core.collectives import Collectives
from orchestrator.core.run_directory import RunDirectory
from orchestrator.spec.job import JobSpec
from orchestrator.spec.load import load_spec
from orchestrator.train.activations import REST, Trace
from orchestrator.train.assemble import assemble
from orchestrator.train.context import RankContext
from orchestrator.train.job import Job
from orchestrator.train.loop import _stats, _take_step

ROOT = Path(__file__).parents[1]
SPEC = ROOT / "jobs" / "digits" / "large_batch_sgd.yaml"
BATCH, MICRO = 512, 128
MODULATORS: dict[str, str] = {
    "agvm, norms": "{name: agvm, start_step: 0}",
    "agvm, split": "{name: agvm, start_step: 0, estimator: split}",
    "vrgd": "vrgd",
    "adaptive_braking": "adaptive_braking",
    "gradient_noise": "gradient_noise",
    "sam": "sam",
    "saved_activations": "saved_activations",
    "ghost_norm": "{name: ghost_norm, size: 32}",
    "sync_batch_norm": "sync_batch_norm",
    "weight_standardization": "weight_standardization",
    "batch_channel_norm": "{name: batch_channel_norm, groups: 8}",
}
"""Attacks need samples of floating-point numbers, which these are not: see `benchmarks.adversarial`."""
COLLECTIVES = ("all_reduce", "reduce_scatter_tensor", "all_gather_into_tensor", "broadcast")


class Wire:
    """Counts the bytes that this rank hands to collectives."""

    def __init__(self) -> None:
        self.num_bytes = 0

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Count what is sent meanwhile."""
        originals = {name: getattr(dist, name) for name in COLLECTIVES}

        def counting(original: Any) -> Any:
            def send(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
                self.num_bytes += tensor.nbytes
                return original(tensor, *args, **kwargs)

            return send

        for name, original in originals.items():
            setattr(dist, name, counting(original))
        try:
            yield
        finally:
            for name, original in originals.items():
                setattr(dist, name, original)


def assembled(folder: str, modulator: str | None) -> Job:
    """One job as this process's rank."""
    overrides = [
        f"batch.global_size={BATCH}",
        f"batch.micro_size={MICRO}",
        f"resources.workers={WORKERS}",
        "train.steps=100000",
        "train.epochs=null",
        "scaling.rule=none",
        "schedule=constant",
        "checkpoint.every=null",
        f"modulators=[{modulator or ''}]",
    ]
    loaded = load_spec(SPEC, overrides)
    assert isinstance(loaded.spec, JobSpec)
    directory = RunDirectory(Path(folder, "modulated" if modulator else "plain", str(dist.get_rank())))
    directory.root.mkdir(parents=True)
    directory.code.symlink_to(loaded.folder)
    directory.update_state(phase="running", attempts=1)
    context = RankContext(
        run_directory=directory,
        attempt=1,
        collectives=Collectives(),
        device=torch.device("cpu"),
        nodes=("here",) * WORKERS,
    )
    return next(assemble(loaded.spec, context, LastEvaluation())).job


def take_steps(job: Job, steps: int) -> None:
    for _ in range(steps):
        _take_step(job, job.controller.plan(_stats(job)))


def time_turns(rank: int, folder: str, modulator: str, turns: int, steps: int) -> None:
    """One rank; rank 0 leaves what it measured."""
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(WORKERS), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=str(WORKERS))
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORKERS)
    jobs = {"plain": assembled(folder, None), "modulated": assembled(folder, modulator)}
    seconds: dict[str, list[float]] = {title: [] for title in jobs}
    for turn in range(turns + 1):
        for title in list(jobs)[:: 1 if turn % 2 else -1]:
            dist.barrier()
            started = time.perf_counter()
            take_steps(jobs[title], steps)
            seconds[title].append((time.perf_counter() - started) / steps)
    result: dict[str, Any] = {}
    for title, job in jobs.items():
        wire = Wire()
        with wire.watched():
            take_steps(job, steps)
        trace = Trace([*job.engine.model.parameters(), *job.engine.model.buffers()])
        with trace:
            trace.enter(REST)
            take_steps(job, steps)
        peak = max(segment.peak for segment in trace.segments)
        # The first turn allocates.
        result[title] = {"seconds": seconds[title][1:], "bytes": wire.num_bytes / steps, "peak": peak}
    if rank == 0:
        Path(folder, "result").write_text(json.dumps(result), encoding="utf-8")
    dist.destroy_process_group()


def row(name: str, result: dict[str, Any]) -> str:
    plain, modulated = result["plain"], result["modulated"]
    ratios = sorted(one / other for one, other in zip(modulated["seconds"], plain["seconds"], strict=True))
    quarter = len(ratios) // 4
    return (
        f"| {name} | {statistics.median(plain['seconds']) * 1e3:.1f} | {statistics.median(ratios):.3f} "
        f"({ratios[quarter]:.3f} - {ratios[-1 - quarter]:.3f}) | {modulated['bytes'] / plain['bytes']:.3f} "
        f"| {modulated['peak'] / plain['peak']:.3f} |"
    )


def report(rows: list[str], command: str) -> str:
    """The result page."""
    return "\n".join(
        [
            "# What modulators cost",
            "",
            f"`{command}`, {date.today()}, {platform.machine()}, {os.cpu_count()} cores, Python "
            f"{platform.python_version()}, torch {torch.__version__}.",
            f"The digits net (`jobs/digits/recipe.py`), SGD, ddp, {WORKERS} workers of one thread over gloo, "
            f"{BATCH} images in micro-batches of {MICRO}.",
            "Turns of both jobs side by side; ratio of their times, median with the quartiles. Bytes: handed to",
            "collectives per step. Memory: most that tensors made within a step hold at once, weights left out.",
            "Aim: agvm at most 1.02 with a measurement every tenth step.",
            "",
            "| modulator | plain, ms | time (quartiles) | bytes sent | memory |",
            "|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=12)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--modulators", nargs="+", choices=MODULATORS, default=list(MODULATORS))
    parser.add_argument("--output", type=Path, default=None, help="default: a dated file beside this script")
    options = parser.parse_args()
    rows = []
    for name in options.modulators:
        with tempfile.TemporaryDirectory() as folder:
            spawn(time_turns, folder, MODULATORS[name], options.turns, options.steps)
            rows.append(row(name, json.loads(Path(folder, "result").read_text(encoding="utf-8"))))
        print(rows[-1], flush=True)
    command = f"python -m benchmarks.modulators --turns {options.turns} --steps {options.steps}"
    default = ROOT / "benchmarks" / f"modulators_{os.cpu_count()}-core-cpu_{date.today()}.md"
    text = report(rows, command)
    (options.output or default).write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
