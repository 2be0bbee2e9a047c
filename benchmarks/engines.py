"""What does an engine cost over the bare library, on the text model with two workers?

Time: in one process group, our engine and a plain loop with the same library train the same model on the same batches,
in turns of a few steps; every pair of turns gives one ratio. Memory: each alone in fresh processes, the growth of
the resident set from before the model is built to its high-water mark, the larger of both ranks.

The engine is driven without Ray and without a data loader, which `benchmarks/overhead.py` measures.

    python -m benchmarks.engines --turns 20 --steps 5
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, multiprocessing

from benchmarks.peers import text_loops
from orchestrator.core import tables
from orchestrator.core.collectives import Collectives
from orchestrator.core.parts import EngineParts
from orchestrator.core.protocols import Engine
from orchestrator.data.micro_batch import LoadedMicroBatch
from orchestrator.spec.job import JobSpec

ROOT = Path(__file__).parents[1]
WORKERS = 2
SEQUENCES = 16
"""Sequences of each worker per step."""
SIZES = {"width": 192, "depth": 4, "num_heads": 4, "sequence_length": 128, "max_bytes": 1_000_000}
ENGINES: dict[str, tuple[dict[str, Any], Callable[..., text_loops.Step]]] = {
    "ddp": ({"name": "ddp"}, text_loops.ddp),
    "fsdp2": ({"name": "fsdp2"}, text_loops.fsdp2),
    **{
        f"deepspeed, stage {stage}": (
            {"name": "deepspeed", "zero_stage": stage},
            partial(text_loops.deepspeed, stage=stage),
        )
        for stage in (1, 2, 3)
    },
}


def our_engine(recipe: Any, engine: dict[str, Any], folder: Path) -> Engine:
    """Our engine, set up as a job would."""
    spec = JobSpec.model_validate(
        {
            "name": "engines",
            "recipe": {"target": "recipe.py:Text"},
            "train": {"steps": 1},
            "batch": {"global_size": WORKERS * SEQUENCES},
            "engine": engine,
            "resources": {"workers": WORKERS},
        }
    )
    collectives = Collectives()
    parts = EngineParts(
        spec=spec,
        model=build_model(recipe),
        build_optimizer=text_loops.adamw,
        build_exchange=partial(tables.load(tables.EXCHANGES, "all_reduce"), spec.exchange, collectives),
        collectives=collectives,
        device=torch.device("cpu"),
        code_folder=folder,
        run_folder=folder,
    )
    built: Engine = tables.load(tables.ENGINES, spec.engine.name)(parts)
    return built


def our_step(recipe: Any, engine: dict[str, Any], folder: Path) -> text_loops.Step:
    """A step of it."""
    built = our_engine(recipe, engine, folder)

    def step(batch: dict[str, Tensor]) -> None:
        built.begin_step()
        built.forward_backward(LoadedMicroBatch(batch=batch, weight=1 / WORKERS, is_last=True), recipe.loss)
        built.step(1e-3)

    return step


def build_model(recipe: Any) -> Any:
    """The same weights every time."""
    torch.manual_seed(0)
    return recipe.build_model()


def batches(recipe: Any, rank: int) -> list[dict[str, Tensor]]:
    """Real text, another part of it for each rank."""
    rows = recipe.build_datasets()[0]
    starts = range(rank * SEQUENCES, 8 * WORKERS * SEQUENCES, WORKERS * SEQUENCES)
    return [{"bytes": rows[start : start + SEQUENCES]["bytes"].long()} for start in starts]


def set_up(rank: int, folder: str) -> Any:
    """Join the group; returns the recipe."""
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(WORKERS), DS_ACCELERATOR="cpu")
    # Accelerate asks for these although the group is there.
    os.environ.update(LOCAL_WORLD_SIZE=str(WORKERS), MASTER_ADDR="127.0.0.1", MASTER_PORT="29500")
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORKERS)
    sys.path.insert(0, str(ROOT / "jobs" / "text"))
    return importlib.import_module("recipe").Text(**SIZES)


def time_turns(rank: int, folder: str, name: str, turns: int, steps: int) -> None:
    """One rank of the timing; rank 0 leaves seconds per step of every turn of both."""
    recipe = set_up(rank, folder)
    engine, bare = ENGINES[name]
    contestants = {"ours": our_step(recipe, engine, Path(folder)), "bare": bare(build_model(recipe), recipe.loss)}
    data = batches(recipe, rank)
    seconds: dict[str, list[float]] = {"ours": [], "bare": []}
    for turn in range(turns + 1):
        for title in list(contestants)[:: 1 if turn % 2 else -1]:
            dist.barrier()
            started = time.perf_counter()
            for index in range(steps):
                contestants[title](data[index % len(data)])
            seconds[title].append((time.perf_counter() - started) / steps)
    if rank == 0:
        # The first turn allocates.
        text = json.dumps({title: values[1:] for title, values in seconds.items()})
        Path(folder, "result").write_text(text, encoding="utf-8")
    dist.destroy_process_group()


def grow(rank: int, folder: str, name: str, title: str) -> None:
    """One rank of the memory measurement; leaves the growth in bytes."""
    recipe = set_up(rank, folder)
    engine, bare = ENGINES[name]
    data = batches(recipe, rank)
    if name.startswith("deepspeed"):
        importlib.import_module("deepspeed")
    before = resident("VmRSS")
    step = our_step(recipe, engine, Path(folder)) if title == "ours" else bare(build_model(recipe), recipe.loss)
    for batch in data[:4]:
        step(batch)
    Path(folder, f"grown_{rank}").write_text(str(resident("VmHWM") - before), encoding="utf-8")
    dist.destroy_process_group()


def resident(field: str) -> int:
    """A size of this process from the kernel, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024


def spawn(function: Callable[..., None], folder: str, *arguments: Any) -> None:
    multiprocessing.spawn(function, (folder, *arguments), nprocs=WORKERS)  # type: ignore[no-untyped-call, attr-defined]


def measure(name: str, turns: int, steps: int) -> dict[str, Any]:
    """Times and memory of one engine and its peer."""
    with tempfile.TemporaryDirectory() as folder:
        spawn(time_turns, folder, name, turns, steps)
        figures: dict[str, Any] = {"step_s": json.loads(Path(folder, "result").read_text(encoding="utf-8"))}
    for title in ("ours", "bare"):
        with tempfile.TemporaryDirectory() as folder:
            spawn(grow, folder, name, title)
            figures[title] = max(int(Path(folder, f"grown_{rank}").read_text("utf-8")) for rank in range(WORKERS))
    return figures


def row(name: str, figures: dict[str, Any]) -> str:
    ours, bare = figures["step_s"]["ours"], figures["step_s"]["bare"]
    ratios = sorted(one / other for one, other in zip(ours, bare, strict=True))
    quarter = len(ratios) // 4
    spread = f"{statistics.median(ratios):.3f} ({ratios[quarter]:.3f} - {ratios[-1 - quarter]:.3f})"
    mib = [figures[title] / 2**20 for title in ("ours", "bare")]
    return (
        f"| {name} | {statistics.median(ours) * 1e3:.1f} | {statistics.median(bare) * 1e3:.1f} | {spread} "
        f"| {mib[0]:.0f} | {mib[1]:.0f} | {mib[0] / mib[1]:.2f} |"
    )


def report(rows: list[str], turns: int, steps: int) -> str:
    """The result page."""
    return "\n".join(
        [
            "# Engines beside the bare libraries",
            "",
            f"`python -m benchmarks.engines --turns {turns} --steps {steps}`, {date.today()}, {platform.machine()}, "
            f"{os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}.",
            f"Text model ({SIZES['depth']} blocks of width {SIZES['width']}), {WORKERS} workers of one thread over "
            f"gloo, {SEQUENCES} sequences each, AdamW, fp32.",
            "Time: turns of both in one process group, pair by pair; median with the quartiles. Aim: at most 1.03.",
            "Memory: growth of the resident set to its high-water mark, each alone, the larger of both ranks, one run.",
            "",
            "| engine | ours, ms | bare, ms | ratio (quartiles) | ours, MiB | bare, MiB | ratio |",
            "|---|---|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--output", type=Path, default=None, help="default: a dated file beside this script")
    options = parser.parse_args()
    rows = []
    for name in ENGINES:
        rows.append(row(name, measure(name, options.turns, options.steps)))
        print(rows[-1], flush=True)
    text = report(rows, options.turns, options.steps)
    default = ROOT / "benchmarks" / f"engines_{os.cpu_count()}-core-cpu_{date.today()}.md"
    (options.output or default).write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
