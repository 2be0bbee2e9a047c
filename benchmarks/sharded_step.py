"""What does a LAMB step cost on divided parameters: ours against the same written in plain DTensor operations?

FSDP2 over the ranks of one machine, 400 parameters of the shapes of a small transformer; the contestants step on
equal tensors in turns, every pair of turns gives one ratio. Collectives are counted by the profiler.

    python -m benchmarks.sharded_step --turns 15
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
from torch import multiprocessing, nn
from torch.distributed.fsdp import fully_shard
from torch.profiler import ProfilerActivity, profile

from benchmarks.peers.dtensor_lamb import DTensorLamb
from orchestrator.optim.lamb import PRESETS, Lamb, Variant

WORKERS = 2
BLOCKS = 50
WIDTH = 64


def make_model() -> nn.Module:
    """50 blocks of 8 parameters: 400 tensors, 2.5 million elements."""
    torch.manual_seed(0)
    sizes = [(WIDTH, 4 * WIDTH), (4 * WIDTH, WIDTH), (WIDTH, WIDTH), (WIDTH, WIDTH)]
    model = nn.Sequential(*(nn.Linear(*size) for _ in range(BLOCKS) for size in sizes))
    fully_shard(model)
    torch.manual_seed(1)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    return model


def make_contestants() -> dict[str, torch.optim.Optimizer]:
    """Each with a model of its own; all adapt every tensor."""
    everything = Variant(adapt="all", eps=PRESETS["paper"].eps)
    return {
        "ours": Lamb(make_model().parameters(), lr=1e-4, variant=everything),
        "ours, eager": Lamb(make_model().parameters(), lr=1e-4, variant=everything, implementation="eager"),
        "DTensor, norms of each": DTensorLamb(make_model().parameters(), 1e-4, "each"),
        "DTensor, norms batched": DTensorLamb(make_model().parameters(), 1e-4, "batched"),
        "torch AdamW (fused), for scale": torch.optim.AdamW(make_model().parameters(), lr=1e-4, fused=True),
    }


def count_collectives(optimizer: torch.optim.Optimizer) -> int:
    """All messages of one step."""
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        optimizer.step()
    return sum(1 for event in profiled.events() if event.name.startswith("gloo:"))


def run_rank(rank: int, folder: str, turns: int) -> None:
    """One rank; rank 0 leaves seconds per turn, collectives and what runs our step."""
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(WORKERS))
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORKERS)
    contestants = make_contestants()
    seconds: dict[str, list[float]] = {title: [] for title in contestants}
    for turn in range(turns + 2):
        for title in list(contestants)[:: 1 if turn % 2 else -1]:
            dist.barrier()
            started = time.perf_counter()
            contestants[title].step()
            dist.barrier()
            seconds[title].append(time.perf_counter() - started)
    collectives = {title: count_collectives(optimizer) for title, optimizer in contestants.items()}
    if rank == 0:
        ours = contestants["ours"]
        assert isinstance(ours, Lamb)
        facts = {
            "seconds": {title: values[2:] for title, values in seconds.items()},  # the first turns allocate
            "collectives": collectives,
            "implementation": ours.runs_on(),
            "parameters": sum(len(group["params"]) for group in ours.param_groups),
        }
        Path(folder, "result").write_text(json.dumps(facts), encoding="utf-8")
    dist.destroy_process_group()


def report(facts: dict[str, Any], turns: int) -> str:
    """The result file."""
    rows = []
    for title, values in facts["seconds"].items():
        ratios = [theirs / ours for theirs, ours in zip(values, facts["seconds"]["ours"], strict=True)]
        middle, low, high = statistics.median(ratios), min(ratios), max(ratios)
        rows.append(
            f"| {title} | {statistics.median(values) * 1e3:.1f} | {facts['collectives'][title]} | "
            f"{middle:.2f} ({low:.2f} - {high:.2f}) |"
        )
    return "\n".join(
        [
            "# A LAMB step on divided parameters",
            "",
            f"`python -m benchmarks.sharded_step --turns {turns}`, {date.today()}, {platform.machine()}, "
            f"{os.cpu_count()} cores, torch {torch.__version__}.",
            f"FSDP2 over {WORKERS} gloo ranks of one thread, {facts['parameters']} parameters; ours runs on "
            f"{facts['implementation']}.",
            "Contestants step in turns on equal tensors; the ratio is theirs / ours, pair by pair, median with",
            "minimum and maximum.",
            "",
            "| contestant | step, ms | collectives | time / ours |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=15)
    turns = parser.parse_args().turns
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(run_rank, (folder, turns), nprocs=WORKERS)  # type: ignore[no-untyped-call, attr-defined]
        facts = json.loads(Path(folder, "result").read_text(encoding="utf-8"))
    text = report(facts, turns)
    name = f"sharded_step_{os.cpu_count()}-core-cpu_{date.today()}.md"
    Path(__file__).with_name(name).write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
