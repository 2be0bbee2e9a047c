"""`orchestrator critical-batch`: how large a batch still pays for a training, measured on branches of it."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.export import Force
from orchestrator.cli.figures import counted, figure
from orchestrator.cli.options import Json, Overrides, SpecPath, Storage, check_target
from orchestrator.cli.output import aligned, emit, emit_json, tell
from orchestrator.core.errors import UsageError

if TYPE_CHECKING:
    from orchestrator.launch.branches import Branch, Study
    from orchestrator.simulate.critical_batch import StepsLaw
    from orchestrator.spec.job import JobSpec
    from orchestrator.spec.load import LoadedSpec

TrunkSteps = Annotated[int, typer.Option("--after", min=1, metavar="STEPS", help="Steps before the branches part.")]
Factors = Annotated[
    str, typer.Option("--factors", metavar="K,K,...", help="Batches of the branches over batch.global_size.")
]
BranchSamples = Annotated[
    int | None,
    typer.Option(
        "--branch-samples",
        min=1,
        metavar="N",
        help="Length of each branch. [default: 40 steps of the largest batch]",
        show_default=False,
    ),
]
Plot = Annotated[Path | None, typer.Option("--plot", metavar="FILE.png", help="Picture to write.", show_default=False)]

BRANCH_STEPS = 40
"""Steps of the largest batch, where nobody says how long branches are."""
SMOOTHED_SHARE = 1 / 20
"""Of a branch's samples: half-life of the averaged loss."""
UNCERTAIN = 0.15
"""Relative error of the fitted law from which on it is told."""


@dataclass(frozen=True, kw_only=True)
class Advice:
    """What to train with."""

    batch: int
    lr: float
    """As optimizer.lr, without a scaling rule."""
    workers: int
    """With the samples per worker that the job has now."""
    steps: float
    """To the common loss, from where the branches part."""
    samples: float


def critical_batch(
    spec: SpecPath,
    trunk_steps: TrunkSteps = 100,
    factors: Factors = "0.25,0.5,1,2,4,8",
    branch_samples: BranchSamples = None,
    overrides: Overrides = [],  # noqa: B006 - typer reads the default and never changes it
    plot: Plot = None,
    force: Force = False,
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Measure how large a batch still pays.

    Trains the spec for some steps at a constant rate, then branches from that checkpoint with several batches, each at
    the rate that goes with it, and compares the steps to a loss that all reach. Two definitions of the critical batch
    are told, and the simple noise scale of the gradient. Everything runs here and now; what was trained is kept.
    """
    from orchestrator.launch.branches import Study, measured_noise_scale
    from orchestrator.launch.store import resolve_storage
    from orchestrator.simulate.critical_batch import fit_steps, steps_to_common_loss
    from orchestrator.spec.load import load_spec

    if plot is not None:
        if plot.suffix != ".png":
            raise UsageError(f"--plot: {plot} is no name of a picture; it must end in .png.")
        check_target("--plot", plot, force)
    multiples = _multiples(factors)
    loaded = load_spec(spec, overrides)
    folder = resolve_storage(storage, loaded.spec.storage, os.environ)
    length = branch_samples or BRANCH_STEPS * round(max(multiples) * _job(loaded).batch.global_size)
    study = Study(
        spec=spec, overrides=overrides, storage=folder, trunk_steps=trunk_steps, branch_samples=length, say=tell
    )
    branches = study.branches(multiples)
    for branch in branches:
        study.branch(branch)  # what is wrong with one of them is told before anything is trained
    trunk = study.train_trunk()
    curves = [study.train_branch(branch, trunk) for branch in branches]
    loss, steps = steps_to_common_loss(curves, SMOOTHED_SHARE * length)
    law = fit_steps([branch.batch for branch in branches], steps)
    advice = _advice(law, study, branches)
    if plot is not None:
        from orchestrator.cli.critical_batch_plot import draw

        draw(plot, [branch.batch for branch in branches], steps, law)
    noise_scale = measured_noise_scale(trunk)
    if as_json:
        emit_json(_document(branches, steps, loss, law, noise_scale, advice))
    else:
        _emit(branches, steps, loss, law, noise_scale, advice)


def _job(loaded: LoadedSpec) -> JobSpec:
    from orchestrator.spec.job import JobSpec

    if not isinstance(loaded.spec, JobSpec):
        raise UsageError(f"{loaded.file}: script: what it trains is its own affair; branches need a recipe.")
    return loaded.spec


def _multiples(text: str) -> list[float]:
    from orchestrator.simulate.critical_batch import MIN_POINTS

    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--factors: {text} is no list of numbers such as 0.5,1,2.") from None
    if len(set(found)) < MIN_POINTS or not all(math.isfinite(factor) and factor > 0 for factor in found):
        raise UsageError(f"--factors: {text}; at least {MIN_POINTS} different positive numbers are needed.")
    return found


def _advice(law: StepsLaw, study: Study, branches: Sequence[Branch]) -> Advice:
    """The batch of the 20% definition, within what was tried."""
    tried = [branch.batch for branch in branches]
    batch = round(min(max(law.overhead(tried[0]), tried[0]), tried[-1]))
    chosen = study.at(batch)
    return Advice(
        batch=batch,
        lr=chosen.lr,
        workers=study.workers_for(batch),
        steps=law.steps(batch),
        samples=law.samples(batch),
    )


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _document(
    branches: Sequence[Branch],
    steps: Sequence[float],
    loss: float,
    law: StepsLaw,
    noise_scale: float | None,
    advice: Advice,
) -> dict[str, object]:
    rows = [{**asdict(branch), "steps": count} for branch, count in zip(branches, steps, strict=True)]
    return {
        "loss": loss,
        "branches": rows,
        "law": asdict(law),
        "critical_batch": {
            "mccandlish": _finite(law.mccandlish),
            "overhead_20_percent": _finite(law.overhead(branches[0].batch)),
        },
        "noise_scale": _finite(noise_scale),
        "advice": asdict(advice),
    }


def _emit(
    branches: Sequence[Branch],
    steps: Sequence[float],
    loss: float,
    law: StepsLaw,
    noise_scale: float | None,
    advice: Advice,
) -> None:
    rows = [("BATCH", "LR", "STEPS", "SAMPLES", "STEPS BY THE LAW")]
    for branch, count in zip(branches, steps, strict=True):
        fitted = law.steps(branch.batch)
        rows.append(
            (
                figure(branch.batch),
                figure(branch.lr),
                f"{count:.1f}",
                figure(round(count * branch.batch)),
                f"{fitted:.1f}",
            )
        )
    emit(f"To a loss of {loss:.4g}, from where the branches part:\n")
    emit("\n".join(aligned(rows)))
    first = branches[0].batch
    emit(f"\nsteps = {law.least_steps:.4g} + {law.least_samples:.4g} / batch")
    last = branches[-1].batch
    emit(f"critical batch, McCandlish (least samples / least steps): {_told(law.mccandlish, last)}")
    emit(f"critical batch, 20% more steps than linear from {figure(first)}: {_told(law.overhead(first), last)}")
    known = "not known" if noise_scale is None else figure(round(noise_scale))
    emit(f"gradient noise scale at the end of the trunk: {known}")
    emit(
        f"\nAdvice, by the 20% definition: batch {figure(advice.batch)}, lr {figure(advice.lr)}, "
        f"{counted(advice.workers, 'worker')}; {advice.steps:.0f} steps and {figure(round(advice.samples))} samples "
        "to that loss"
    )
    if law.worst_error > UNCERTAIN:
        tell(f"warning: the law is off by up to {law.worst_error:.0%}; longer branches or more of them make it surer.")
    if not branches[0].batch <= law.overhead(first) <= branches[-1].batch:
        tell("warning: the 20% definition lies beyond the batches that were tried; the advice is the nearest of them.")


def _told(batch: float, largest: int) -> str:
    if math.isinf(batch):
        return "beyond what was tried"
    return figure(round(batch)) + (f", extrapolated: {figure(largest)} was tried" if batch > largest else "")
