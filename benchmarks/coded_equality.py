"""Does every scheme of the coded exchange give all-reduce's weights, where nobody is slow?

The same job through `orchestrator run`, once with `exchange: all_reduce` and once with each scheme; those that are not
exact wait for everybody. Of the sequential codes, which need several models, every trial of a sweep is compared with
the same trial trained alone. `backup` is left out: it draws other samples.

    python benchmarks/coded_equality.py --steps 30
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
WORKERS = 4
AIM = 1e-6
RATES = (0.01, 0.02, 0.04)
RATE = RATES[1]
"""Of the schemes that train one model."""
FOR_EVERYBODY = {"close": "deadline", "mu": 1000, "wait": "all"}
SCHEMES: Mapping[str, Mapping[str, Any]] = {
    "uncoded": {},
    "fractional": {"stragglers": 1},
    "cyclic": {"stragglers": 1},
    "approximate": {"stragglers": 1, "replicas": 2, **FOR_EVERYBODY},
    "stochastic": {"stragglers": 1, "replicas": 2, **FOR_EVERYBODY},
    "ignore": {"stragglers": 1, **FOR_EVERYBODY},
}
SEQUENTIAL: Mapping[str, Mapping[str, Any]] = {
    "m_sgc": {"burst": 1, "window": 2, "max_stragglers": 1},
    "sr_sgc": {"burst": 1, "window": 2, "max_stragglers": 1},
}
"""T = 1: two models would do, and three leave no model's turn twice in T + 1 rounds."""
Weights = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Row:
    """One training beside that with all-reduce."""

    scheme: str
    rate: float
    relative: float
    """Largest difference of an element, over the largest element of its tensor."""
    absolute: float
    """Largest difference of an element."""
    is_covered: bool
    """Whether every step's sum was over the whole batch."""


def run(exchange: Mapping[str, Any], steps: int, rate: float | None) -> list[tuple[Weights, bool]]:
    """The final weights of a job and whether its steps covered their batches; a sweep over `RATES` without a rate."""
    spec = {
        "name": "digits",
        "recipe": {"target": "recipe.py:DigitsMlp"},
        "train": {"steps": steps, "clip_grad_norm": 0.5},
        # No multiple of the workers, and micro-batches that do not fill a chunk.
        "batch": {"global_size": 90, "micro_size": 12},
        "optimizer": {"name": "lamb", "lr": RATE if rate is None else rate},
        "schedule": {"name": "polynomial", "warmup": {"steps": 5}},
        "resources": {"workers": WORKERS, "cpus_per_worker": 0.25},
        "checkpoint": {"every": None},
        "tracking": {"system_metrics_every_s": None},
        "exchange": exchange,
        "sweep": {} if rate is not None else {"optimizer.lr": list(RATES)},
    }
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "recipe.py").write_text((ROOT / "benchmarks/peers/digits_mlp.py").read_text(), encoding="utf-8")
        (folder / "job.yaml").write_text(json.dumps(spec), encoding="utf-8")
        command = [str(BIN / "orchestrator"), "run", str(folder / "job.yaml"), "--storage", str(folder / "runs")]
        env = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{command} failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
        job = folder / "runs" / "digits"
        trained = [job] if rate is not None else [job / "trials" / str(number) for number in range(len(RATES))]
        return [(load_file(place / "model.safetensors"), _is_covered(place, steps)) for place in trained]


def _is_covered(place: Path, steps: int) -> bool:
    lines = [json.loads(line) for line in (place / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return len(lines) == steps and all(line.get("coverage", 1.0) == 1.0 for line in lines)


def compared(scheme: str, rate: float, got: tuple[Weights, bool], expected: Weights) -> Row:
    """How far the weights of a training are from those that they should be."""
    weights, is_covered = got
    differences = {name: float((weights[name] - tensor).abs().max()) for name, tensor in expected.items()}
    relative = max(difference / float(expected[name].abs().max()) for name, difference in differences.items())
    return Row(scheme, rate, relative, max(differences.values()), is_covered)


def measure(steps: int) -> list[Row]:
    """Every scheme, and every trial of the sequential ones."""
    plain = {rate: run({"name": "all_reduce"}, steps, rate)[0][0] for rate in RATES}
    rows = []
    for scheme, parameters in {**SCHEMES, **SEQUENTIAL}.items():
        exchange = {"name": "coded", "scheme": scheme, "cpus_per_shard": 0.5, **parameters}
        rates = RATES if scheme in SEQUENTIAL else (RATE,)
        results = run(exchange, steps, None if scheme in SEQUENTIAL else RATE)
        for rate, result in zip(rates, results, strict=True):
            rows.append(compared(scheme, rate, result, plain[rate]))
            print(rows[-1], flush=True)
    return rows


def report(rows: list[Row], steps: int, command: str) -> str:
    """The result page."""
    return "\n".join(
        [
            "# Weights of the coded exchange beside all-reduce's",
            "",
            f"`{command}`, {date.today()}, {platform.machine()}, {os.cpu_count()} cores, Python "
            f"{platform.python_version()}, torch {torch.__version__}.",
            f"A perceptron on scikit-learn's digits, LAMB, clipping, batch 90, {WORKERS} workers, {steps} steps",
            "through `orchestrator run`; nobody is slow. Schemes that are not exact wait for everybody. Of m_sgc and",
            "sr_sgc each trial of one sweep over the rates is compared with that trial trained alone with all-reduce.",
            "Relative: the largest difference of an element over the largest element of its tensor, the worst tensor.",
            f"`backup` draws other samples and is left out. Aim: at most {AIM:g}.",
            "",
            "| scheme | learning rate | relative difference | absolute difference | whole batch in each step |",
            "|---|---|---|---|---|",
            *(
                f"| {row.scheme} | {row.rate:g} | {row.relative:.1e} | {row.absolute:.1e} "
                f"| {'yes' if row.is_covered else 'no'} |"
                for row in rows
            ),
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--output", type=Path, default=None, help="default: a dated file beside this script")
    options = parser.parse_args()
    command = f"python benchmarks/coded_equality.py --steps {options.steps}"
    rows = measure(options.steps)
    text = report(rows, options.steps, command)
    default = ROOT / "benchmarks" / f"coded_equality_{os.cpu_count()}-core-cpu_{date.today()}.md"
    (options.output or default).write_text(text, encoding="utf-8")
    print(text)
    if not all(row.is_covered and row.relative <= AIM for row in rows):
        raise SystemExit("some weights differ")


if __name__ == "__main__":
    main()
