"""`orchestrator fit-curve`: what loss another learning-rate schedule would reach, from one or two curves at hand."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.export import Force
from orchestrator.cli.figures import figure
from orchestrator.cli.options import Json, Overrides, Storage, check_target
from orchestrator.cli.output import aligned, emit, emit_json, tell
from orchestrator.core.errors import UsageError

if TYPE_CHECKING:
    from orchestrator.simulate.annealing_law import AnnealingLaw, Curve
    from orchestrator.simulate.comparison import Comparison

Curves = Annotated[
    list[str],
    typer.Argument(
        metavar="CURVE",
        help="Curves to fit: a job, a run directory, or a CSV with the columns step, lr and loss.",
        show_default=False,
    ),
]
Predict = Annotated[
    list[str],
    typer.Option(
        "--predict",
        metavar="CURVE|SPEC",
        help="A curve or a job spec to predict; may be repeated.",
        show_default=False,
    ),
]
Momentum = Annotated[
    float, typer.Option("--momentum", metavar="LAMBDA", help="How long annealing acts: 1 / (1 - LAMBDA) steps.")
]
WarmupSteps = Annotated[
    int | None,
    typer.Option(
        "--warmup-steps",
        min=0,
        metavar="N",
        help="Warmup of the logged curves. [default: the job's own, else the steps in which the rate rises at first]",
        show_default=False,
    ),
]
Loss = Annotated[
    str, typer.Option("--loss", metavar="NAME", help="Column or metric that holds the loss, such as eval/loss.")
]
Out = Annotated[
    Path | None,
    typer.Option("--out", metavar="FILE", help="CSV to write every curve to, step by step.", show_default=False),
]

HEADER = ("CURVE", "", "STEPS", "WARMUP", "PEAK LR", "FINAL LOSS", "OBSERVED", "OFF BY", "MEAN ERROR", "MEDIAN", "MAX")


def fit_curve(
    curves: Curves,
    predict: Predict = [],  # noqa: B006 - typer reads the default and never changes it
    momentum: Momentum = 0.999,
    warmup_steps: WarmupSteps = None,
    loss: Loss = "loss",
    overrides: Overrides = [],  # noqa: B006 - as above
    out: Out = None,
    force: Force = False,
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Predict the loss of other learning-rate schedules.

    Fits the learning-rate-annealing law, L = L0 + A S1^-alpha - C S2, to one or two curves, at least one of them with
    a falling rate. It gives the loss of another schedule of the same training. --set changes the specs to predict.
    """
    from orchestrator.launch.curves import CurveReader, is_spec
    from orchestrator.launch.store import resolve_storage
    from orchestrator.simulate.annealing_law import fit
    from orchestrator.simulate.comparison import compare, doubts

    if not 0 <= momentum < 1:
        raise UsageError(f"--momentum: {momentum:g} is not in [0, 1).")
    if overrides and not any(map(is_spec, predict)):
        raise UsageError("--set: changes the specs that --predict names, and it names none.")
    if out is not None:
        check_target("--out", out, force)
    reader = CurveReader(resolve_storage(storage, None, os.environ), loss, warmup_steps, overrides)
    fitted = [reader.curve(name) for name in curves]
    predicted = [reader.schedule(name) for name in predict]
    law = fit(fitted, momentum=momentum)
    rows = [
        *(("fitted", compare(law, curve)) for curve in fitted),
        *(("predicted", compare(law, curve)) for curve in predicted),
    ]
    warnings = list(doubts(law, fitted, predicted))
    if out is not None:
        _write(out, law, fitted, predicted)
    if as_json:
        described = [{"use": use, **asdict(comparison)} for use, comparison in rows]
        emit_json({"law": asdict(law), "loss": loss, "curves": described, "warnings": warnings})
    else:
        _emit_table(law, rows, warnings)


def _emit_table(law: AnnealingLaw, rows: Sequence[tuple[str, Comparison]], warnings: Sequence[str]) -> None:
    emit(f"L = {law.l0:.4g} + {law.a:.4g} S1^-{law.alpha:.4g} - {law.c:.4g} S2, momentum {law.momentum:g}\n")
    emit("\n".join(aligned([HEADER, *(_cells(use, comparison) for use, comparison in rows)])))
    for warning in warnings:
        tell(f"warning: {warning}")


def _cells(use: str, row: Comparison) -> tuple[str, ...]:
    errors = ("", "", "")
    if row.errors is not None:
        errors = (f"{row.errors.mean:.2%}", f"{row.errors.median:.2%}", f"{row.errors.max:.2%}")
    return (
        row.name,
        use,
        figure(row.steps),
        figure(row.warmup_steps),
        figure(row.peak_lr),
        f"{row.final_predicted:.4f}",
        "" if row.final_observed is None else f"{row.final_observed:.4f}",
        "" if row.final_error is None else f"{row.final_error:+.2%}",
        *errors,
    )


def _write(file: Path, law: AnnealingLaw, fitted: Sequence[Curve], predicted: Sequence[Curve]) -> None:
    """One line for each step of each curve; the observed loss is empty where it is not known."""
    import csv

    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("curve", "use", "step", "lr", "predicted_loss", "observed_loss"))
        for use, group in (("fitted", fitted), ("predicted", predicted)):
            for curve in group:
                observed = dict(zip(curve.steps.tolist(), curve.loss.tolist(), strict=True))
                losses = law.loss(curve.lr, warmup_steps=curve.warmup_steps).tolist()
                for step, (lr, loss) in enumerate(zip(curve.lr.tolist(), losses, strict=True), start=1):
                    writer.writerow((curve.name, use, step, lr, loss, observed.get(step, "")))
