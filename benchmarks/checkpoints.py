"""How long does a checkpoint hold the training up, written beside it and written while it waits?

The text training on two gloo processes, without Ray in between: ranks assemble and train as under Ray. The two ways
take turns under every engine and for two sizes of the model; figures are those of the job's own events, ``pause_s``
(how long the loop stood still, the wait for a checkpoint under way included) and ``write_s``.

    python benchmarks/checkpoints.py --repeats 3
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from orchestrator.core.collectives import Collectives
from orchestrator.core.protocols import Tracker
from orchestrator.core.run_directory import RunDirectory
from orchestrator.launch.prepare import prepare
from orchestrator.spec.load import load_recipe_job, load_spec
from orchestrator.tracking.tracker import NullTracker
from orchestrator.train.assemble import assemble
from orchestrator.train.context import RankContext
from orchestrator.train.loop import train

ROOT = Path(__file__).parents[1]
WORKERS = 2
ENGINES = ("ddp", "fsdp2")
WAYS = {"beside": True, "waiting": False}
AIM = 0.10
COMMON = ("optimizer.name=adamw", "optimizer.lr=0.001", "train.eval_every=null", "train.log_every=1")


@dataclass(frozen=True)
class Model:
    """One size of the text model, with a batch that lets a step take a moment and an interval that a write fits in."""

    overrides: tuple[str, ...]
    every: int
    num_checkpoints: int


MODELS = {
    "0.5 million parameters, as in jobs/text": Model(("batch.global_size=16",), every=15, num_checkpoints=6),
    "19 million parameters": Model(
        ("recipe.args.width=512", "recipe.args.depth=6", "batch.global_size=4"), every=6, num_checkpoints=4
    ),
}


@dataclass
class Kept:
    """Keeps what a rank tells its tracker. Satisfies ``core.protocols.Tracker``."""

    step_s: list[float] = field(default_factory=list)
    saved: list[dict[str, Any]] = field(default_factory=list)

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Keep the time of a step."""
        self.step_s.append(metrics["step_s"])

    def event(self, name: str, fields: Mapping[str, Any]) -> None:
        """Keep what is said of checkpoints."""
        if name == "checkpoint_saved":
            self.saved.append(dict(fields))

    def close(self) -> None:
        """Nothing is open."""


def train_on_rank(rank: int, root: str, result: str) -> None:
    """Train a prepared job as one of two ranks; rank 0 leaves its figures as JSON."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{root}/rendezvous", rank=rank, world_size=WORKERS)
    directory = RunDirectory(root)
    collectives = Collectives()
    context = RankContext(
        run_directory=directory, attempt=1, collectives=collectives, device=torch.device("cpu"), nodes=("here",) * 2
    )
    kept = Kept()
    tracker: Tracker = kept if rank == 0 else NullTracker()
    job = next(assemble(load_recipe_job(directory.resolved_spec), context, tracker)).job
    gc.collect()
    gc.freeze()  # as `train.rank` does
    with closing(job.data):
        train(job)
    if rank == 0:
        num_bytes = sum(piece.numel * piece.data.element_size() for piece in job.engine.pieces().values())
        Path(result).write_text(json.dumps({**vars(kept), "num_bytes": num_bytes}), encoding="utf-8")
    else:
        job.engine.pieces()  # a collective
    dist.destroy_process_group()


def run(model: Model, engine: str, *, asynchronous: bool) -> dict[str, Any]:
    """One training; what rank 0 kept."""
    overrides = [
        *COMMON,
        *model.overrides,
        f"engine.name={engine}",
        f"train.steps={model.every * model.num_checkpoints}",
    ]
    overrides += [f"checkpoint.every={model.every}", f"checkpoint.asynchronous={json.dumps(asynchronous)}"]
    with tempfile.TemporaryDirectory() as folder:
        prepared = prepare(load_spec(ROOT / "jobs/text/job.yaml", overrides), Path(folder))
        prepared.run_directory.update_state(phase="running", attempts=1)
        result = Path(folder) / "result.json"
        arguments = (str(prepared.run_directory.root), str(result))
        spawn(train_on_rank, arguments, nprocs=WORKERS)
        kept: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
        return kept


Figures = dict[tuple[str, str, str], list[dict[str, Any]]]


def measure(repeats: int) -> Figures:
    """Everything in turn, ``repeats`` times."""
    figures: Figures = {}
    for repeat in range(repeats):
        for name, model in MODELS.items():
            for engine in ENGINES:
                for way, asynchronous in WAYS.items():
                    kept = run(model, engine, asynchronous=asynchronous)
                    figures.setdefault((name, engine, way), []).append(kept)
                    pauses = " ".join(f"{saved['pause_s'] * 1e3:.1f}" for saved in kept["saved"])
                    print(f"{repeat + 1}/{repeats} {name}, {engine}, {way}: pauses {pauses} ms", flush=True)
    return figures


def later(runs: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    """A figure of every checkpoint but the first of each run, in milliseconds."""
    return [saved[key] * 1e3 for kept in runs for saved in kept["saved"][1:]]


def first(runs: Sequence[Mapping[str, Any]]) -> list[float]:
    """The pause of each run's first checkpoint, in milliseconds."""
    return [kept["saved"][0]["pause_s"] * 1e3 for kept in runs]


def step_ms(runs: Sequence[Mapping[str, Any]], model: Model) -> float:
    """Mean time of a step from the first checkpoint on, in milliseconds, pauses not counted."""
    return float(statistics.mean(step for kept in runs for step in kept["step_s"][model.every :])) * 1e3


def spread(values: Sequence[float]) -> str:
    """Median with minimum and maximum."""
    return f"{statistics.median(values):.1f} ({min(values):.1f} - {max(values):.1f})"


def report(figures: Figures, repeats: int, load: tuple[float, float]) -> str:
    """The result page."""

    def row(name: str, engine: str, way: str) -> str:
        runs = figures[name, engine, way]
        cells = [engine, way, spread(later(runs, "pause_s")), spread(first(runs)), spread(later(runs, "write_s"))]
        return f"| {' | '.join(cells)} | {step_ms(runs, MODELS[name]):.1f} |"

    def ratio(name: str, engine: str) -> str:
        beside, waiting = (later(figures[name, engine, way], "pause_s") for way in WAYS)
        pairs = zip(figures[name, engine, "beside"], figures[name, engine, "waiting"], strict=True)
        by_repeat = [
            statistics.median(later([a], "pause_s")) / statistics.median(later([b], "pause_s")) for a, b in pairs
        ]
        whole = statistics.median(beside) / statistics.median(waiting)
        return f"| {name} | {engine} | {whole:.1%} | {min(by_repeat):.1%} - {max(by_repeat):.1%} | {AIM:.0%} |"

    def table(name: str) -> list[str]:
        num_bytes = figures[name, "ddp", "beside"][0]["num_bytes"]
        return [
            f"## {name}: {num_bytes / 2**20:.1f} MiB of state, a checkpoint every {MODELS[name].every} steps",
            "",
            "| engine | written | pause, ms | pause of the first checkpoint, ms | writing, ms | mean step, ms |",
            "|---|---|---|---|---|---|",
            *(row(name, engine, way) for engine in ENGINES for way in WAYS),
            "",
        ]

    return "\n".join(
        [
            "# Pause of the training for a checkpoint",
            "",
            f"`python benchmarks/checkpoints.py --repeats {repeats}`, {date.today()}, {platform.machine()}, "
            f"{os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}.",
            f"Load average {load[0]:.1f} before and {load[1]:.1f} after; this alone takes two cores.",
            "Two gloo processes of one thread without Ray, AdamW, the text of jobs/text; the ways take turns. Medians",
            "with minimum and maximum over all checkpoints but the first of each run, as rank 0's events give them.",
            "The pause of a checkpoint written beside the training includes the wait for the one before.",
            "",
            "| model | engine | pause beside / pause waiting | by repeat | aim |",
            "|---|---|---|---|---|",
            *(ratio(name, engine) for name in MODELS for engine in ENGINES),
            "",
            *(line for name in MODELS for line in table(name)),
            "The mean step counts the steps after the first checkpoint without the pauses: with as many workers as",
            "cores, a checkpoint that is written beside the training takes its time from the steps that run meanwhile.",
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=None, help="default: a dated file beside this script")
    options = parser.parse_args()
    before = os.getloadavg()[0]
    figures = measure(options.repeats)
    text = report(figures, options.repeats, (before, os.getloadavg()[0]))
    default = ROOT / "benchmarks" / f"checkpoints_{os.cpu_count()}-core-cpu_{date.today()}.md"
    (options.output or default).write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
