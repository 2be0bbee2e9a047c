"""`orchestrator advise`: which exchange would have been fastest with the workers that a job has had."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.figures import counted, figure
from orchestrator.cli.options import Json, Storage
from orchestrator.cli.output import aligned, emit, emit_json
from orchestrator.cli.simulate import CarryOver, FixedS, NumModels

if TYPE_CHECKING:
    from orchestrator.core.stragglers import SlowWorker
    from orchestrator.simulate.stragglers.advice import Advice, Choice
    from orchestrator.simulate.stragglers.recorded import Estimate

Source = Annotated[
    str,
    typer.Argument(
        metavar="JOB",
        help="A job, a run directory, or a CSV or JSONL of workers' seconds in each step.",
        show_default=False,
    ),
]
AllowLossy = Annotated[
    bool,
    typer.Option(
        "--allow-lossy",
        help="Also recommend schemes that leave slow workers' samples out, and so change the updates.",
        show_default=False,
    ),
]

MAX_STEPS = 500
"""Newest steps that advice is about."""
HEADER = ("SCHEME", "CLOSES", "EXACT", "LOAD", "TOTAL", "GAIN")


def advise(
    source: Source,
    num_models: NumModels = 1,
    allow_lossy: AllowLossy = False,
    fixed_s: FixedS = 0.0,
    carry_over: CarryOver = True,
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Say which exchange the workers of a job call for.

    Replays every scheme over the recorded times of the newest steps. A code is recommended only where it would have
    saved more than 5 %.
    """
    from orchestrator.launch.store import resolve_storage
    from orchestrator.launch.worker_records import read_record
    from orchestrator.simulate.stragglers.advice import advised
    from orchestrator.simulate.stragglers.recorded import estimate, slow_workers, with_ordinary
    from orchestrator.simulate.stragglers.search import Situation

    record = read_record(source, resolve_storage(storage, None, os.environ), max_steps=MAX_STEPS)
    known = estimate(record, fixed_s=fixed_s)
    num_jobs = known.trace.num_rounds - num_models + 1
    situation = Situation(trace=known.trace, num_jobs=num_jobs, num_models=num_models, carry_over=carry_over)
    advice = advised(situation, allow_lossy=allow_lossy)
    slow = slow_workers(record)
    remedied_s = None
    if slow:
        ordinary = with_ordinary(known.trace, [worker.worker for worker in slow])
        remedied_s = float(ordinary.uncoded_s()[:num_jobs].max(axis=1).sum())
    if as_json:
        emit_json(_document(source, known, fixed_s, advice, slow, remedied_s))
        return
    emit("\n".join(_about(source, known, fixed_s)))
    emit("\n" + "\n".join(aligned([HEADER, *map(_cells, advice.choices)])))
    emit("\n" + "\n".join(_verdict(advice, allow_lossy)))
    for worker in slow:
        emit(_remedy(worker))
    if remedied_s is not None:
        emit(f"With ordinary workers in their place, uncoded steps would have taken {figure(remedied_s)} s.")


def _about(source: str, known: Estimate, fixed_s: float) -> Iterator[str]:
    trace = known.trace
    yield (
        f"{source}: {counted(trace.num_workers, 'worker')}, {counted(trace.num_rounds, 'step')}, in seconds of the "
        f"workers' own computing, of which {figure(fixed_s)} s a step do not grow with a worker's share (--fixed-s)."
    )
    if known.uneven_work is not None:
        yield (
            f"Time grows with the elements of the data to the power of {known.exponent:.2f}; the largest part of a "
            f"batch is {figure(known.uneven_work)} times the mean, and is so for every worker that computes it."
        )
    if known.num_unknown:
        yield (f"{counted(known.num_unknown, 'time')} not known, and taken for that of the slowest worker of the step.")


def _verdict(advice: Advice, allow_lossy: bool) -> Iterator[str]:
    from orchestrator.simulate.stragglers.advice import MIN_GAIN, spec_line

    chosen = advice.recommended
    if chosen.setting.scheme == "uncoded":
        kind = "scheme" if allow_lossy else "exact scheme"
        yield f"Recommended: no coding, as no {kind} would have saved more than {MIN_GAIN:.0%}."
    else:
        yield (
            f"Recommended: {chosen.setting}, which would have saved {chosen.gain:.1%} of the time, not counting what "
            "messages take."
        )
        if not chosen.is_exact:
            yield "It leaves out samples, which changes the updates."
        if chosen.delay:
            yield f"It needs {chosen.delay + 1} or more models that share the workers."
    yield spec_line(chosen)


def _remedy(worker: SlowWorker) -> str:
    return (
        f"Worker {worker.worker} has taken {worker.ratio:.1f} times as long as the others since step "
        f"{worker.since_step:,}: the remedy is to replace it, or to give it less to do."
    )


def _cells(choice: Choice) -> tuple[str, ...]:
    from orchestrator.cli.straggler_rows import closes

    is_exact = "yes" if choice.is_exact else "no"
    return (
        str(choice.setting),
        closes(choice.rule),
        is_exact,
        f"{choice.load:.4g}",
        f"{figure(choice.total_s)} s",
        f"{choice.gain:+.1%}",
    )


def _document(
    source: str,
    known: Estimate,
    fixed_s: float,
    advice: Advice,
    slow: Sequence[SlowWorker],
    remedied_s: float | None,
) -> dict[str, Any]:
    """All of it as data."""
    return {
        "source": source,
        "workers": known.trace.num_workers,
        "steps": known.trace.num_rounds,
        "fixed_s": fixed_s,
        "elements_exponent": known.exponent,
        "uneven_work": known.uneven_work,
        "unknown_times": known.num_unknown,
        "choices": [_as_json(choice) for choice in advice.choices],
        "recommended": _as_json(advice.recommended),
        "slow_workers": [
            {"worker": worker.worker, "ratio": worker.ratio, "since_step": worker.since_step} for worker in slow
        ],
        "uncoded_with_ordinary_workers_s": remedied_s,
    }


def _as_json(choice: Choice) -> dict[str, Any]:
    from orchestrator.simulate.stragglers.advice import spec_line

    return {
        "scheme": choice.setting.scheme,
        "parameters": dict(choice.setting.parameters),
        "exact": choice.is_exact,
        "load": choice.load,
        "total_s": choice.total_s,
        "gain": choice.gain,
        "spec": spec_line(choice),
    }
