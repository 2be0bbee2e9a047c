"""Large contrastive batches: does the loss matter, does the batch, and what do chunks cost and save?

1. Retrieval. `jobs/pairs` (halves of digits, 1,297 training pairs), trained by the product's own loop in one process of
   one thread, for the same epochs at every batch, and for more steps at the largest: how often the nearest of 500
   held-out views is the own one. The rate is chosen for each loss, batch and length among three, with seed 0, on a
   validation split of 297 pairs that takes no part in the tables; these have `SEEDS`.
2. Memory. One forward and backward of larger towers with and without chunks, each in a process of its own: the most
   that is held beside weights and batch, traced; what the process grew by; and the seconds.

Every run is a line of a JSON-lines file as soon as it ends; an interrupted benchmark goes on from there.

    python -m benchmarks.contrastive --runs runs/contrastive.jsonl
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import multiprocessing
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.learning import LastEvaluation, table_head, table_row, train_alone
from orchestrator.core.run_directory import read_json_lines
from orchestrator.losses import embed_in_chunks, sigmoid_contrastive, softmax_contrastive
from orchestrator.spec.job import JobSpec
from orchestrator.spec.load import load_spec
from orchestrator.train.activations import trace_backward

ROOT = Path(__file__).parents[1]
KINDS = ("softmax", "sigmoid")
BATCHES = (16, 64, 256)
RATES = (0.001, 0.003, 0.01)
SEEDS = (0, 1, 2, 3, 4)
LENGTHS = {"epochs": 12, "steps": 500}
BATCHES_OF = {"epochs": BATCHES, "steps": (256,)}
"""Of each length: 12 epochs are many steps at the small batches and 61 at the largest."""
PAIRS, INPUTS, WIDTH, EMBEDDING, DEPTH = 2048, 256, 512, 64, 6
"""Of the towers whose memory is measured."""
CHUNKS = (None, 512, 128, 32)
MIB = 2**20


@dataclass(frozen=True)
class Run:
    """One training."""

    kind: str
    batch: int
    lr: float
    seed: int = 0
    validation: bool = False
    length: str = "epochs"

    @property
    def spec(self) -> JobSpec:
        """The ready spec with what differs."""
        overrides = [
            f"recipe.args={{kind: {self.kind}, validation: {str(self.validation).lower()}}}",
            f"batch.global_size={self.batch}",
            f"optimizer.lr={self.lr!r}",
            f"train={{{self.length}: {LENGTHS[self.length]}, seed: {self.seed}, log_every: 1000000}}",
            "checkpoint.every=null",
            "resources.workers=1",
        ]
        spec = load_spec(ROOT / "jobs" / "pairs" / "job.yaml", overrides).spec
        assert isinstance(spec, JobSpec)
        return spec


def train(run: Run) -> dict[str, Any]:
    """Train in this process."""
    torch.set_num_threads(1)
    tracker, started = LastEvaluation(), time.process_time()
    train_alone(run.spec, ROOT / "jobs" / "pairs", tracker)
    recall = tracker.metrics["eval/recall_at_1"]
    return {"recall": recall, "steps": tracker.step, "cpu_s": round(time.process_time() - started, 2)}


class Runs:
    """All that was trained, by what it was.

    Args:
        path: of the JSON lines.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self.results = {Run(**line["run"]): line["result"] for line in read_json_lines(path)}

    def make(self, wanted: Iterable[Run]) -> None:
        """Train what is not there yet."""
        for run in wanted:
            if run not in self.results:
                self.results[run] = train(run)
                with self._path.open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps({"run": asdict(run), "result": self.results[run]}) + "\n")
                print(run, self.results[run], flush=True)

    def best_rate(self, kind: str, batch: int, length: str) -> float:
        """The rate with the best recall on the validation pairs."""
        runs = [Run(kind, batch, lr, validation=True, length=length) for lr in RATES]
        self.make(runs)
        return max(runs, key=lambda run: float(self.results[run]["recall"])).lr


def retrieval(runs: Runs, length: str) -> Iterator[str]:
    """The table of recalls after trainings of one length, and that of the choices of rates."""
    batches = BATCHES_OF[length]
    chosen = {
        (kind, batch): Run(kind, batch, runs.best_rate(kind, batch, length), length=length)
        for kind in KINDS
        for batch in batches
    }
    # Seed by seed: what else the machine does meanwhile falls on all alike.
    runs.make(replace(run, seed=seed) for seed in SEEDS for run in chosen.values())
    yield f"## Retrieval after {LENGTHS[length]} {length}"
    yield ""
    yield (
        "Recall at 1 in % among 500 held-out pairs, mean of both directions: mean ± standard deviation (smallest - "
        f"largest) of {len(SEEDS)} seeds; 0.2 % is chance."
    )
    yield ""
    yield from table_head("loss", *(f"batch {batch}" for batch in batches))
    for kind in KINDS:
        found = {b: [runs.results[replace(chosen[kind, b], seed=seed)]["recall"] for seed in SEEDS] for b in batches}
        yield table_row(kind, *(_spread(found[batch]) for batch in batches))
        yield table_row("rate, steps", *(_how(runs, chosen[kind, batch]) for batch in batches))
    yield ""
    yield "The choice of the rate: recall in % among the 297 validation pairs, seed 0."
    yield ""
    yield from table_head("loss", "batch", *(f"{rate:g}" for rate in RATES))
    for kind in KINDS:
        for batch in batches:
            of_rates = (Run(kind, batch, lr, validation=True, length=length) for lr in RATES)
            yield table_row(kind, str(batch), *(f"{100 * runs.results[run]['recall']:.1f}" for run in of_rates))
    yield ""


def _spread(recalls: list[float]) -> str:
    mean, deviation = statistics.mean(recalls), statistics.stdev(recalls)
    return f"{100 * mean:.1f} ± {100 * deviation:.1f} ({100 * min(recalls):.1f} - {100 * max(recalls):.1f})"


def _how(runs: Runs, run: Run) -> str:
    return f"{run.lr:g}, {runs.results[run]['steps']:,}"


class LargeTowers(nn.Module):
    """Two deep towers."""

    def __init__(self) -> None:
        super().__init__()
        widths = (INPUTS, *(WIDTH,) * DEPTH)
        self.towers = nn.ModuleList(
            nn.Sequential(
                *(
                    nn.Sequential(nn.Linear(before, after), nn.LayerNorm(after), nn.GELU())
                    for before, after in itertools.pairwise(widths)
                ),
                nn.Linear(WIDTH, EMBEDDING),
            )
            for _ in range(2)
        )

    def forward(self, *views: Tensor) -> tuple[Tensor, ...]:
        """Embeddings of both views."""
        return tuple(nn.functional.normalize(t(view)) for t, view in zip(self.towers, views, strict=True))


def loss_of(kind: str, chunk_size: int | None) -> Callable[[nn.Module, Any], tuple[Tensor, dict[str, Tensor]]]:
    """A recipe's loss."""

    def loss(model: nn.Module, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        x, y = embed_in_chunks(model, batch, chunk_size)
        value = softmax_contrastive(x, y, 10.0) if kind == "softmax" else sigmoid_contrastive(x, y, 10.0, -10.0)
        return value, {}

    return loss


def measure(kind: str, chunk_size: int | None) -> dict[str, float]:
    """What one forward and backward take; in a fresh process."""
    torch.set_num_threads(1)
    fake = FakeTensorMode()
    with fake:
        hollow = LargeTowers()
    views = (torch.zeros(PAIRS, INPUTS), torch.zeros(PAIRS, INPUTS))
    loss = loss_of(kind, chunk_size)
    traced = max(s.peak for s in trace_backward(hollow, [], loss, views, fake, contextlib.nullcontext()))
    torch.manual_seed(0)
    model, views = LargeTowers(), (torch.randn(PAIRS, INPUTS), torch.randn(PAIRS, INPUTS))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    before = psutil.Process().memory_info().rss
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        loss(model, views)[0].backward()
        seconds.append(time.perf_counter() - started)
    grown = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"traced_mib": traced / MIB, "grown_mib": grown / MIB, "seconds": statistics.median(seconds)}


def memory() -> Iterator[str]:
    """The table of chunks."""
    yield "## Memory"
    yield ""
    yield (
        f"Two towers of {DEPTH} layers of width {WIDTH}, {PAIRS:,} pairs on one worker: most bytes held in a forward "
        "and backward beside weights and batch, traced; by how much the process grew; median seconds of three."
    )
    yield ""
    yield from table_head("chunk", *(f"{kind}: traced MiB, grown MiB, s" for kind in KINDS))
    for chunk_size in CHUNKS:
        cells = []
        for kind in KINDS:
            # One process after the other: they would slow each other down.
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                found = pool.apply(measure, (kind, chunk_size))
            cells.append(f"{found['traced_mib']:.0f}, {found['grown_mib']:.0f}, {found['seconds']:.2f}")
        yield table_row("all at once" if chunk_size is None else str(chunk_size), *cells)
    yield ""
    matrix = PAIRS**2 * 4 / MIB
    yield (
        f"A matrix of all pairs takes {matrix:.0f} MiB, and both losses hold several at once. With W workers the "
        "softmax has [b, B] of it on each, the sigmoid [b, b]."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "contrastive.jsonl", help="JSON lines, added to")
    parser.add_argument("--output", type=Path, default=None, help="default: a dated file beside this script")
    options = parser.parse_args()
    runs = Runs(options.runs)
    tables = [line for length in LENGTHS for line in retrieval(runs, length)] + list(memory())
    text = "\n".join(
        [
            "# Contrastive losses and batches, and what chunks save",
            "",
            f"`python -m benchmarks.contrastive`, {date.today()}, {platform.machine()}, {os.cpu_count()} cores, Python "
            f"{platform.python_version()}, torch {torch.__version__}. One thread each.",
            "",
            *tables,
        ]
    )
    default = ROOT / "benchmarks" / f"contrastive_{os.cpu_count()}-core-cpu_{date.today()}.md"
    (options.output or default).write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
