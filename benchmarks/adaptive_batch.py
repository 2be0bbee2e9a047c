"""Does a batch that adapts beat the best constant one? Two workers, equal samples, three seeds, real data.

Digits with SGD (`jobs/digits/large_batch_sgd.yaml`) and text with AdamW (`jobs/text/large_batch_adamw.yaml`), from a
batch of 128 and up to 2,048, each policy with its own coupling of the rate. The rates are those chosen at batch 128 by
`benchmarks.learning`; constant batches follow the specs' sqrt rule and linear-epoch warmup. Every job is trained by the
product's own loop on two gloo ranks of one thread, in one pair of processes, one after the other. Every run is a line
of a JSON-lines file; an interrupted benchmark goes on from there.

    python -m benchmarks.adaptive_batch --runs runs/adaptive_batch.jsonl [--arms "constant 128" cbs_probe]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from orchestrator.core.collectives import Collectives
from orchestrator.core.run_directory import RunDirectory, read_json_lines
from orchestrator.spec.job import JobSpec
from orchestrator.spec.load import load_spec
from orchestrator.train.assemble import assemble
from orchestrator.train.context import RankContext
from orchestrator.train.phases import train_phases

ROOT = Path(__file__).parents[1]
WORKERS = 2
SEEDS = (0, 1, 2)
SMALL, LARGE = 128, 2048
OPTIMIZERS = {"digits": "sgd", "text": "adamw"}
MEASURED = (
    "statistic: {every: 4, half_life_samples: 12800}, "
    f"guards: {{max_size: {LARGE}, min_measurements: 10, cooldown_samples: 6400}}"
)
"""A fourth of the steps is measured; a change at most every 50 steps of the small batch."""
POLICIES = {
    "norm_test, eta 0.1": f"{{name: norm_test, eta: 0.1, {MEASURED}}}",
    "norm_test, eta 0.25": f"{{name: norm_test, eta: 0.25, {MEASURED}}}",
    "norm_test, eta 0.5": f"{{name: norm_test, eta: 0.5, {MEASURED}}}",
    "noise_scale": f"{{name: noise_scale, {MEASURED}}}",
    "goodput": f"{{name: goodput, {MEASURED}}}",
    "cbs_probe": (
        f"{{name: cbs_probe, every_samples: 12800, branch_samples: {4 * LARGE}, max_size: {LARGE}, smoothing: 0.9}}"
    ),
    "schedule": "{name: schedule, sizes: '40000:256 80000:512 120000:1024', coupling: sqrt}",
}
"""`batch.controller` of each, from the small batch on."""
CONSTANT = (SMALL, 512, LARGE)
ARMS = (*(f"constant {size}" for size in CONSTANT), *POLICIES)


def overrides(arm: str, seed: int) -> list[str]:
    """As of ``--set``."""
    size, controller = SMALL, POLICIES.get(arm, "constant")
    if arm not in POLICIES:
        size = int(arm.split()[1])
    return [
        f"batch.global_size={size}",
        "batch.micro_size=512",
        f"batch.controller={controller}",
        f"resources.workers={WORKERS}",
        f"train.seed={seed}",
        "train.log_every=1000000",
        "checkpoint.every=null",
    ]


class LastLine:
    """A tracker that keeps the last line of metrics and counts the changes of the batch."""

    def __init__(self) -> None:
        self.step = 0
        self.metrics: dict[str, Any] = {}
        self.sizes: list[int] = []
        self.num_of_branches = 0
        """Samples that branches took beside the training."""

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """See ``core.protocols.Tracker``."""
        self.step, self.metrics = step, dict(metrics)

    def event(self, name: str, fields: Mapping[str, Any]) -> None:
        """See ``core.protocols.Tracker``."""
        if name == "batch" and fields["batch"] not in self.sizes[-1:]:
            self.sizes.append(fields["batch"])
        if name == "branches":
            self.num_of_branches = fields["num_samples_so_far"]

    def close(self) -> None:
        """See ``core.protocols.Tracker``."""


def train(data: str, arm: str, seed: int, collectives: Collectives) -> dict[str, Any]:
    """Train one job as this process's rank."""
    loaded = load_spec(ROOT / "jobs" / data / f"large_batch_{OPTIMIZERS[data]}.yaml", overrides(arm, seed))
    assert isinstance(loaded.spec, JobSpec)
    # The recipes of both data sets are modules of one name.
    sys.modules.pop("recipe", None)
    sys.path[:] = [path for path in sys.path if not path.endswith("/code")]
    tracker = LastLine()
    # The data are read and cached before the clock starts; ranks have a folder each, for they share nothing on disk.
    with tempfile.TemporaryDirectory() as folder:
        directory = RunDirectory(folder)
        directory.code.symlink_to(loaded.folder)
        directory.update_state(phase="running", attempts=1)
        shared: list[Any] = [folder]
        dist.broadcast_object_list(shared)
        context = RankContext(
            run_directory=RunDirectory(shared[0]),
            attempt=1,
            collectives=collectives,
            device=torch.device("cpu"),
            nodes=("here",) * WORKERS,
        )
        phases = assemble(loaded.spec, context, tracker)
        dist.barrier()
        started = time.perf_counter()
        train_phases(phases, context, tracker)
        dist.barrier()
        seconds = time.perf_counter() - started
    return {
        "steps": tracker.step,
        "samples": tracker.metrics["samples"],
        "seconds": round(seconds, 2),
        "loss": tracker.metrics["eval/loss"],
        "accuracy": tracker.metrics.get("eval/accuracy"),
        "batches": tracker.sizes,
        "samples_of_branches": tracker.num_of_branches,
    }


def train_all(rank: int, folder: str, file: str, wanted: Sequence[tuple[str, str, int]]) -> None:
    """Train what is wanted as one of the ranks; rank 0 writes a line for each."""
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(WORKERS), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=str(WORKERS))
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORKERS)
    for data, arm, seed in wanted:
        result = train(data, arm, seed, Collectives())
        if rank == 0:
            line = {"data": data, "arm": arm, "seed": seed, **result}
            print(line, flush=True)
            with Path(file).open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(line) + "\n")
    dist.destroy_process_group()


def report(lines: Sequence[Mapping[str, Any]], data: str) -> Iterator[str]:
    """The table of one data set and who won."""
    found = {arm: [line for line in lines if (line["data"], line["arm"]) == (data, arm)] for arm in ARMS}
    found = {arm: runs for arm, runs in found.items() if runs}
    yield f"## {data.capitalize()}, {OPTIMIZERS[data]}\n"
    titles = ("arm", "steps", "average batch", "samples/s", "seconds", "loss", "accuracy, %", "batches of seed 0")
    yield f"| {' | '.join(titles)} |"
    yield "|---" * len(titles) + "|"
    for arm, runs in found.items():
        steps, samples, seconds = (mean([run[name] for run in runs]) for name in ("steps", "samples", "seconds"))
        losses = [run["loss"] for run in runs]
        known = [run["accuracy"] for run in runs if run["accuracy"] is not None]
        accuracy = f"{100 * mean(known):.2f}" if known else ""
        yield (
            f"| {arm} | {steps:.0f} | {samples / steps:.0f} | {samples / seconds:,.0f} | {seconds:.1f} "
            f"| {mean(losses):.4f} ({min(losses):.4f} - {max(losses):.4f}) | {accuracy} "
            f"| {' '.join(map(str, runs[0]['batches'])) or '-'} |"
        )
    loss = {arm: mean([run["loss"] for run in runs]) for arm, runs in found.items()}
    constant = min((arm for arm in loss if arm not in POLICIES), key=lambda arm: loss[arm])
    adaptive = min((arm for arm in loss if arm in POLICIES), key=lambda arm: loss[arm])
    beaten = "beats" if loss[adaptive] < loss[constant] else "does not beat"
    yield (
        f"\nThe best policy by mean loss, {adaptive} ({loss[adaptive]:.4f}), {beaten} the best constant batch, "
        f"{constant} ({loss[constant]:.4f}).\n"
    )


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--runs", type=Path, default=ROOT / "runs" / "adaptive_batch.jsonl", help="JSON lines, added to"
    )
    parser.add_argument("--data", nargs="+", choices=OPTIMIZERS, default=list(OPTIMIZERS))
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--output", type=Path, default=None, help="default: a dated file beside this script")
    options = parser.parse_args()
    options.runs.parent.mkdir(parents=True, exist_ok=True)
    made = {(line["data"], line["arm"], line["seed"]) for line in read_json_lines(options.runs)}
    # Seed by seed: what else the machine does meanwhile falls on all arms alike.
    every = [(data, arm, seed) for seed in SEEDS for data in options.data for arm in options.arms]
    wanted = [run for run in every if run not in made]
    if wanted:
        with tempfile.TemporaryDirectory() as folder:
            multiprocessing.spawn(train_all, (folder, str(options.runs), wanted), nprocs=WORKERS)  # type: ignore[no-untyped-call, attr-defined]
    lines = list(read_json_lines(options.runs))
    tables = [line for data in options.data for line in report(lines, data)]
    text = "\n".join(
        [
            "# Batches that adapt against constant ones",
            "",
            f"`python -m benchmarks.adaptive_batch`, {date.today()}, {platform.machine()}, {os.cpu_count()} cores, "
            f"Python {platform.python_version()}, torch {torch.__version__}. {WORKERS} workers of one thread, means of "
            f"seeds {', '.join(map(str, SEEDS))}, the same samples for every arm.",
            "",
            *tables,
        ]
    )
    default = ROOT / "benchmarks" / f"adaptive_batch_{os.cpu_count()}-core-cpu_{date.today()}.md"
    (options.output or default).write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
