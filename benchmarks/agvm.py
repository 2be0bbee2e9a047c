"""AGVM on a small detector: are the modules' gradients as unlike as the paper says, and does aligning them help?

Scenes of real digits (`jobs/scenes`) at a reduced size, AdamW, the product's own loop in one process of one thread; the
two halves of a batch are two micro-batches.

1. Misalignment: phi = 1 - cos of two halves' gradients in the middle third of the training, for backbone, pyramid and
   head, at a batch of 16 and of 256, equal samples; nothing is modulated.
2. Accuracy at the large batch: plain and with AGVM at each of several learning rates, and plain with fixed multipliers
   for each module equal to the mean of AGVM's last factors at the same rate.

Every run is a line of a JSON-lines file as soon as it ends; an interrupted benchmark goes on from there.

    python -m benchmarks.agvm --runs runs/agvm.jsonl --processes 2
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch

from benchmarks.learning import ROOT, table_head, table_row, train_alone
from benchmarks.run_file import RunFile
from orchestrator.core.errors import DivergedError
from orchestrator.spec.job import JobSpec
from orchestrator.spec.load import load_spec

MODULES = ("backbone", "fpn", "head")
SMALL, LARGE = 16, 256
SEEDS = (0, 1, 2, 3, 4)
RATES = (0.004, 0.012, 0.036)
LR_OF_MISALIGNMENT = 0.012
SCENES = 1024
EPOCHS = 20
MEASURE = {"name": "agvm", "estimator": "split", "every": 4, "decay": 0.9}
STILL = {**MEASURE, "start_step": 0, "bounds": [1.0, 1.0]}


@dataclass(frozen=True)
class Run:
    """One training."""

    batch: int
    lr: float
    arm: str
    """still (measures only), plain, agvm or fixed."""
    seed: int
    multipliers: tuple[float, ...] = ()
    """Of the modules' rates, where they are fixed."""


class AllMetrics:
    """A tracker that keeps every line."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """See ``core.protocols.Tracker``."""
        self.lines.append(dict(metrics))

    def event(self, name: str, fields: Mapping[str, Any]) -> None:
        """See ``core.protocols.Tracker``."""

    def close(self) -> None:
        """See ``core.protocols.Tracker``."""


def train(run: Run) -> tuple[Run, dict[str, Any]]:
    """Train in this process."""
    torch.set_num_threads(1)
    modulators = {"still": [STILL], "agvm": [MEASURE]}.get(run.arm, [])
    groups = [
        {"match": [name], "lr_multiplier": multiplier}
        for name, multiplier in zip(MODULES, run.multipliers, strict=False)
    ]
    overrides = [
        f"recipe.args={{width: 8, channels: 16, num_train_scenes: {SCENES}, num_evaluation_scenes: 256}}",
        f"train.epochs={EPOCHS}",
        f"train.seed={run.seed}",
        f"batch.global_size={run.batch}",
        f"batch.micro_size={run.batch // 2}",
        f"optimizer={{name: adamw, lr: {run.lr!r}, weight_decay: 0.05, param_groups: {json.dumps(groups)}}}",
        "schedule={name: cosine, warmup: {fraction: 0.15}}",
        "resources.workers=1",
        "checkpoint.every=null",
        f"modulators={json.dumps(modulators)}",
    ]
    loaded = load_spec(ROOT / "jobs" / "scenes" / "job.yaml", overrides)
    assert isinstance(loaded.spec, JobSpec)
    tracker = AllMetrics()
    try:
        train_alone(loaded.spec, loaded.folder, tracker)
    except DivergedError:
        return run, {"eval": None}
    lines = tracker.lines
    middle = lines[len(lines) // 3 : 2 * len(lines) // 3]
    result: dict[str, Any] = {"eval": {name: v for name, v in lines[-1].items() if name.startswith("eval/")}}
    if modulators:
        result["phi"] = [statistics.fmean(line[f"agvm/{name}/variance"] for line in middle) for name in MODULES]
        result["factors"] = [lines[-1][f"agvm/{name}/factor"] for name in MODULES]
    return run, result


def misalignment(runs: RunFile[Run]) -> Iterator[str]:
    """The first table."""
    cells = {batch: [Run(batch, LR_OF_MISALIGNMENT, "still", seed) for seed in SEEDS] for batch in (SMALL, LARGE)}
    runs.make(run for cell in cells.values() for run in cell)
    yield from table_head("batch", *(f"phi of {name}" for name in MODULES), "head / backbone")
    for batch, cell in cells.items():
        phis = [runs.results[run]["phi"] for run in cell]
        shares = [phi[-1] / phi[0] for phi in phis]
        yield table_row(str(batch), *(spread([phi[i] for phi in phis]) for i in range(len(MODULES))), spread(shares))


def accuracy(runs: RunFile[Run]) -> Iterator[str]:
    """The second table."""
    learned = {(lr, arm): [Run(LARGE, lr, arm, seed) for seed in SEEDS] for lr in RATES for arm in ("plain", "agvm")}
    runs.make(run for cell in learned.values() for run in cell)
    for lr in RATES:
        factors = [runs.results[run]["factors"] for run in learned[lr, "agvm"] if runs.results[run]["eval"]]
        if factors:
            fixed = tuple(round(statistics.fmean(f[i] for f in factors), 4) for i in range(len(MODULES)))
            learned[lr, "fixed"] = [Run(LARGE, lr, "fixed", seed, fixed) for seed in SEEDS]
    runs.make(run for cell in learned.values() for run in cell)
    yield from table_head(
        "rate", "arm", "loss", "less plain's, seed by seed", "mAP, %", "mAP at IoU 0.5, %", "last factors (or fixed)"
    )
    for (lr, arm), cell in sorted(
        learned.items(), key=lambda item: (item[0][0], ("plain", "agvm", "fixed").index(item[0][1]))
    ):
        found = [runs.results[run] for run in cell]
        evals = [result["eval"] for result in found if result["eval"]]
        if not evals:
            yield table_row(f"{lr:g}", arm, "diverged", "", "", "", "")
            continue
        factors = list(cell[0].multipliers) or [
            statistics.fmean(result["factors"][i] for result in found if "factors" in result)
            for i in range(len(MODULES) if arm == "agvm" else 0)
        ]
        yield table_row(
            f"{lr:g}",
            arm + ("" if len(evals) == len(cell) else f", {len(cell) - len(evals)} diverged"),
            spread([e["eval/loss"] for e in evals]),
            difference(cell, learned[lr, "plain"], runs),
            spread([100 * e["eval/map"] for e in evals], 1),
            spread([100 * e["eval/map_50"] for e in evals], 1),
            " / ".join(f"{factor:.2f}" for factor in factors),
        )


def difference(cell: list[Run], plain: list[Run], runs: RunFile[Run]) -> str:
    """Of the losses of two arms with the same seeds."""
    pairs = [(runs.results[run]["eval"], runs.results[other]["eval"]) for run, other in zip(cell, plain, strict=True)]
    known = [one["eval/loss"] - two["eval/loss"] for one, two in pairs if one and two]
    return "" if cell == plain or not known else spread(known)


def spread(values: list[float], digits: int = 3) -> str:
    """Mean and sample standard deviation."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):.{digits}f} ± {deviation:.{digits}f}"


def report(first: list[str], second: list[str], command: str) -> str:
    """The result page."""
    return "\n".join(
        [
            "# AGVM on a small detector",
            "",
            f"`{command}`, {date.today()}, {platform.machine()}, {os.cpu_count()} cores, Python "
            f"{platform.python_version()}, torch {torch.__version__}.",
            f"`jobs/scenes` with {SCENES:,} training scenes, width 8, pyramid of 16 channels; AdamW, decay 0.05,",
            f"cosine with 15 % warmup, {EPOCHS} epochs, {len(SEEDS)} seeds; mean ± sample deviation. AGVM: split (two",
            f"micro-batches), a measurement every {MEASURE['every']} steps after the warmup, decay {MEASURE['decay']}.",
            "Batch norm sees a micro-batch, so statistics are over half a batch.",
            "",
            "## Are the modules' gradients as unlike as the paper says?",
            "",
            f"Rate {LR_OF_MISALIGNMENT:g}, equal samples, middle third of the training, nothing modulated.",
            "",
            *first,
            "",
            f"## Does aligning them help, at batch {LARGE}?",
            "",
            *second,
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "agvm.jsonl", help="JSON lines, added to")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--output", type=Path, default=None, help="default: a dated file beside this script")
    options = parser.parse_args()
    runs = RunFile(options.runs, options.processes, Run, train)
    text = report(
        list(misalignment(runs)), list(accuracy(runs)), f"python -m benchmarks.agvm --processes {options.processes}"
    )
    default = ROOT / "benchmarks" / f"agvm_{os.cpu_count()}-core-cpu_{date.today()}.md"
    (options.output or default).write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
