"""Are our AdaScale gains those of FairScale's AdaScale, on the same model, data and steps?

A small net on scikit-learn's digits, SGD, four micro-batches of 16 per step, one process. FairScale's optimizer takes
the steps and says its gain after each; beside it the norms of the same micro-batches' gradients go into our statistic,
whose half-life in samples is FairScale's smoothing per step. FairScale clamps each step's estimates (variance at least
1e-6, squared norm at least 0); from the first step that was clamped on the definitions differ.

FairScale is no dependency of the project: `pip install fairscale==0.4.13` for this benchmark alone.

    python -m benchmarks.adascale_gains --steps 300
"""

from __future__ import annotations

import argparse
import importlib
import math
import os
import platform
import statistics
from datetime import date
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from orchestrator.batching.adascale import adascale_gain
from orchestrator.core.gradient_stats import GroupNorms, RunningStatistic, noise_and_signal

ROOT = Path(__file__).parents[1]
NUM_MICRO, MICRO = 4, 16
BATCH = NUM_MICRO * MICRO
SMOOTHINGS = (0.9, 0.996)
"""FairScale's own default for four gradients is the second."""


def norms_of(gradients: list[Tensor]) -> GroupNorms:
    """Of the micro-batches' mean gradients, ``[num_elements]`` each."""
    mean = torch.stack(gradients).mean(dim=0)
    return GroupNorms(
        sum_weighted_sq=MICRO * sum(float(gradient.double().square().sum()) for gradient in gradients),
        norm_sq=float(mean.double().square().sum()),
        num_groups=NUM_MICRO,
        num_samples=BATCH,
    )


def compare(smoothing: float, steps: int, lr: float) -> tuple[list[tuple[float, float]], list[int]]:
    """Gains after each step, FairScale's and ours, and the steps that FairScale clamped, from 0."""
    adascale: Any = importlib.import_module("fairscale.optim.adascale").AdaScale
    torch.manual_seed(0)
    digits = load_digits()
    images, labels = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = adascale(
        torch.optim.SGD(model.parameters(), lr=lr),
        world_size=1,
        num_gradients_to_accumulate=NUM_MICRO,
        smoothing=smoothing,
    )
    statistic = RunningStatistic(BATCH * math.log(0.5) / math.log(smoothing))
    gains: list[tuple[float, float]] = []
    clamped = []
    for step in range(steps):
        gradients = []
        before = torch.zeros(sum(p.numel() for p in model.parameters()))
        for chosen in torch.randint(len(labels), (NUM_MICRO, MICRO)):
            loss = functional.cross_entropy(model(images[chosen]), labels[chosen]) / NUM_MICRO
            loss.backward()
            total = torch.cat([p.grad.reshape(-1) for p in model.parameters() if p.grad is not None])
            gradients.append((total - before) * NUM_MICRO)
            before = total.clone()
        norms = norms_of(gradients)
        noise, signal = noise_and_signal(norms)
        if signal < 0 or noise / MICRO < 1e-6:
            clamped.append(step)
        statistic.update(norms, step * BATCH)
        theirs = float(optimizer.gain())
        gains.append((theirs, adascale_gain(statistic.noise, statistic.signal, batch=BATCH, reference=MICRO)))
        optimizer.step()
        optimizer.zero_grad()
    return gains, clamped


def row(smoothing: float, lr: float, steps: int) -> str:
    gains, clamped = compare(smoothing, steps, lr)
    errors = [abs(ours / theirs - 1) for theirs, ours in gains]
    agreed = errors[: clamped[0]] if clamped else errors
    theirs, ours = gains[-1]
    return (
        f"| {smoothing} | {lr} | {len(agreed)} | {max(agreed):.4%} | {len(clamped)} of {steps} "
        f"| {theirs:.4f} | {ours:.4f} | {statistics.median(errors):.3%} | {max(errors):.3%} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--output", type=Path, default=None, help="default: a dated file beside this script")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row(smoothing, lr, options.steps) for smoothing in SMOOTHINGS for lr in (0.001, 0.05)]
    text = "\n".join(
        [
            "# Gains of AdaScale: FairScale's and ours",
            "",
            f"`python -m benchmarks.adascale_gains --steps {options.steps}`, {date.today()}, {platform.machine()}, "
            f"{os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}, fairscale 0.4.13.",
            f"{NUM_MICRO} micro-batches of {MICRO}; the gain lies between 1 and {NUM_MICRO}. Definitions agree until "
            "FairScale clamps a step's estimate for the first time. Aim there: within 2%.",
            "",
            "| smoothing | rate | steps before a clamp | largest error in them | clamped steps | last gain, FairScale "
            "| last gain, ours | median error of all | largest of all |",
            "|---|---|---|---|---|---|---|---|---|",
            *rows,
            "",
        ]
    )
    default = ROOT / "benchmarks" / f"adascale_gains_{os.cpu_count()}-core-cpu_{date.today()}.md"
    (options.output or default).write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
