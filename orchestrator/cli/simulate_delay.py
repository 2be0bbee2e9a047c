"""`orchestrator simulate delay`: how old the gradients of asynchronous workers are, and how far training bears it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from orchestrator.cli.export import Force
from orchestrator.cli.options import Json, Storage, check_target
from orchestrator.cli.output import emit_json
from orchestrator.core.errors import UsageError

if TYPE_CHECKING:
    from orchestrator.cli.heat_rows import HeatMaps
    from orchestrator.simulate.delay.events import Course
    from orchestrator.simulate.delay.times import WorkerTimes
    from orchestrator.spec.push_order import OrderedPush

NumWorkers = Annotated[
    int | None,
    typer.Option("--workers", min=1, metavar="N", help="Workers. [default: 8, or as many as recorded]"),
]
Cv = Annotated[
    float | None,
    typer.Option(
        "--cv",
        metavar="CV",
        help="Of the gamma distributed times of made-up workers, mean 1: standard deviation / mean. [default: 0.3]",
    ),
]
Slow = Annotated[
    list[str],
    typer.Option(
        "--slow",
        metavar="WORKER=FACTOR",
        help="A worker, from 0, that takes so many times longer; may be repeated.",
        show_default=False,
    ),
]
TraceFile = Annotated[
    str | None,
    typer.Option(
        "--trace",
        metavar="FILE|JOB",
        help="Recorded times in place of made-up ones: a CSV or JSONL of seconds, a run directory, a job. What a "
        "worker took for its part of a step is taken for a chunk.",
        show_default=False,
    ),
]
NumUpdates = Annotated[
    int | None,
    typer.Option("--updates", min=1, metavar="K", help="Updates. [default: 1000, with --quadratic 2000]"),
]
PushesPerUpdate = Annotated[
    int | None,
    typer.Option("--pushes-per-update", min=1, metavar="C", help="Pushes that make one update. [default: 1]"),
]
MaxDelay = Annotated[
    int | None,
    typer.Option("--max-delay", min=0, metavar="D", help="Refuse older pushes, and give their chunks out again."),
]
MaxLead = Annotated[
    int | None,
    typer.Option(
        "--max-lead", min=0, metavar="S", help="Pushes that a worker may be ahead of the slowest before it waits."
    ),
]
Overlap = Annotated[
    bool,
    typer.Option(
        "--overlap/--no-overlap",
        help="Whether a worker computes on while its push is on its way, as the exchange does unless told otherwise.",
    ),
]
PushS = Annotated[
    float | None,
    typer.Option("--push-s", metavar="SECONDS", help="That a push is on its way. [default: 0]"),
]
FixedDelays = Annotated[
    list[int],
    typer.Option(
        "--delay",
        min=0,
        metavar="D",
        help="In place of workers: each push is this old. With --quadratic it may be repeated. "
        "[default with --quadratic: 0, 1, 4, 16, 64]",
        show_default=False,
    ),
]
Seed = Annotated[int, typer.Option("--seed", min=0, metavar="N", help="Of the random numbers.")]
Momentum = Annotated[
    float, typer.Option("--momentum", metavar="M", help="Momentum that the largest stable learning rate is told for.")
]
Write = Annotated[
    Path | None,
    typer.Option(
        "--write",
        metavar="FILE.csv",
        help="The order of the pushes, as `exchange.order` of a job takes it.",
        show_default=False,
    ),
]
OnQuadratic = Annotated[
    bool,
    typer.Option(
        "--quadratic",
        help="Train a quadratic with a grid of learning rates and momenta at each delay, or in the workers' order.",
        show_default=False,
    ),
]
Rho = Annotated[
    float | None,
    typer.Option("--rho", metavar="RHO", help="Of adaptive braking on the quadratic; 0 is none. [default: 0]"),
]
NumTensors = Annotated[
    int | None,
    typer.Option(
        "--tensors", min=1, metavar="T", help="Parts of the quadratic that are braked each on its own. [default: 1]"
    ),
]
CompensationName = Annotated[
    Literal["staleness_aware", "dc_asgd", "gap_aware", "dana_zero", "weight_prediction"] | None,
    typer.Option("--compensation", help="What is done about the delay on the quadratic.", show_default=False),
]
Condition = Annotated[
    float | None,
    typer.Option(
        "--condition", metavar="KAPPA", help="Largest curvature of the quadratic over its least. [default: 1000]"
    ),
]
Plot = Annotated[
    Path | None,
    typer.Option("--plot", metavar="FILE.png", help="Heat map of --quadratic to write.", show_default=False),
]

DEFAULT_WORKERS, DEFAULT_CV = 8, 0.3
DEFAULT_UPDATES, DEFAULT_QUADRATIC_UPDATES = 1000, 2000
DEFAULT_DELAYS = (0, 1, 4, 16, 64)
MAX_RECORDED_STEPS = 10_000


def delay(
    num_workers: NumWorkers = None,
    cv: Cv = None,
    slow: Slow = [],  # noqa: B006 - typer reads the default and never changes it
    trace: TraceFile = None,
    num_updates: NumUpdates = None,
    pushes_per_update: PushesPerUpdate = None,
    max_delay: MaxDelay = None,
    max_lead: MaxLead = None,
    overlap: Overlap = False,
    push_s: PushS = None,
    delays: FixedDelays = [],  # noqa: B006 - as above
    seed: Seed = 0,
    momentum: Momentum = 0.9,
    write: Write = None,
    quadratic: OnQuadratic = False,
    rho: Rho = None,
    num_tensors: NumTensors = None,
    compensation: CompensationName = None,
    condition: Condition = None,
    plot: Plot = None,
    force: Force = False,
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """How old gradients of asynchronous workers are.

    Simulates which push is taken when: delays, pushes of each worker, speed, and the largest stable learning rate. With
    --quadratic, which learning rates and momenta converge at such delays.
    """
    of_workers = {
        "--workers": num_workers,
        "--cv": cv,
        "--slow": slow or None,
        "--trace": trace,
        "--pushes-per-update": pushes_per_update,
        "--max-delay": max_delay,
        "--max-lead": max_lead,
        "--overlap": overlap or None,
        "--push-s": push_s,
    }
    of_quadratic = {"--rho": rho, "--tensors": num_tensors, "--condition": condition, "--plot": plot}
    has_workers = _first_given(of_workers) is not None
    _check_use(of_workers, {**of_quadratic, "--compensation": compensation}, delays, write, quadratic)
    _check_values(momentum, write, plot, force)
    num_updates = num_updates or (DEFAULT_QUADRATIC_UPDATES if quadratic else DEFAULT_UPDATES)
    course = None
    try:
        if has_workers or not (quadratic or delays):
            times = _times(num_workers, cv, slow, trace, seed, storage)
            course = _course(times, num_updates, pushes_per_update or 1, max_delay, max_lead, overlap, push_s or 0.0)
        orders = _orders(course, delays or DEFAULT_DELAYS, num_updates)
        if quadratic:
            maps = _train(orders, rho or 0.0, num_tensors or 1, compensation, condition, seed)
            _tell_maps(maps, momentum, plot, as_json)
        else:
            _tell_course(course, next(iter(orders.values())), momentum, write, as_json)
    except ValueError as error:
        raise UsageError(str(error)) from None


def _check_use(
    of_workers: Mapping[str, Any],
    of_quadratic: Mapping[str, Any],
    delays: Sequence[int],
    write: Path | None,
    quadratic: bool,
) -> None:
    """Refuse options that would change nothing."""
    if delays and (given := _first_given(of_workers)):
        raise UsageError(f"{given}: is of workers, and --delay takes their place.")
    if quadratic and write is not None:
        raise UsageError("--write: the order of pushes is written without --quadratic.")
    if not quadratic and (given := _first_given(of_quadratic)):
        raise UsageError(f"{given}: is for --quadratic only.")
    if not quadratic and len(delays) > 1:
        raise UsageError("--delay: may be repeated with --quadratic only.")


def _first_given(options: Mapping[str, Any]) -> str | None:
    """The first option that has a value."""
    return next((name for name, value in options.items() if value is not None), None)


def _check_values(momentum: float, write: Path | None, plot: Path | None, force: bool) -> None:
    if not 0 <= momentum < 1:
        raise UsageError(f"--momentum: {momentum:g} is not in [0, 1).")
    for option, file, suffix, kind in (("--write", write, ".csv", "table"), ("--plot", plot, ".png", "picture")):
        if file is not None:
            if file.suffix != suffix:
                raise UsageError(f"{option}: {file} is no name of a {kind}; it must end in {suffix}.")
            check_target(option, file, force)


def _times(
    num_workers: int | None,
    cv: float | None,
    slow: Sequence[str],
    trace: str | None,
    seed: int,
    storage: str | None,
) -> WorkerTimes:
    from orchestrator.launch.store import resolve_storage
    from orchestrator.launch.worker_records import read_record
    from orchestrator.simulate.delay.times import GammaTimes, recorded_times

    factors = _slow_factors(slow)
    if trace is None:
        cv = DEFAULT_CV if cv is None else cv
        return GammaTimes(num_workers=num_workers or DEFAULT_WORKERS, cv=cv, slow=factors, seed=seed)
    if cv is not None:
        raise UsageError(f"--cv: {cv:g} is of made-up times; recorded ones vary as they do.")
    record = read_record(trace, resolve_storage(storage, None, os.environ), max_steps=MAX_RECORDED_STEPS)
    if num_workers not in (None, record.num_workers):
        raise UsageError(f"--workers: {num_workers}; the recorded times are of {record.num_workers}.")
    return recorded_times(record, factors)


def _slow_factors(texts: Sequence[str]) -> dict[int, float]:
    factors: dict[int, float] = {}
    for text in texts:
        worker, _, factor = text.partition("=")
        try:
            number, value = int(worker), float(factor)
        except ValueError:
            raise UsageError(f"--slow: {text} must be WORKER=FACTOR, as in 0=4.") from None
        if number in factors:
            raise UsageError(f"--slow: worker {number} is named twice.")
        factors[number] = value
    return factors


def _course(
    times: WorkerTimes,
    num_updates: int,
    pushes_per_update: int,
    max_delay: int | None,
    max_lead: int | None,
    overlap: bool,
    push_s: float,
) -> Course:
    from orchestrator.simulate.delay.events import PushRules, simulate

    rules = PushRules(
        num_updates=num_updates,
        pushes_per_update=pushes_per_update,
        max_delay=max_delay,
        max_lead=max_lead,
        overlap=overlap,
        push_s=push_s,
    )
    return simulate(times, rules)


def _orders(
    course: Course | None, delays: Sequence[int], num_updates: int
) -> dict[int | None, tuple[OrderedPush, ...]]:
    """Orders of pushes by their fixed delay; that of workers under None."""
    from orchestrator.simulate.delay.events import fixed_delay

    if course is not None:
        return {None: course.order}
    return {delay: fixed_delay(num_updates, delay) for delay in sorted(set(delays))}


def _tell_course(
    course: Course | None, order: Sequence[OrderedPush], momentum: float, write: Path | None, as_json: bool
) -> None:
    from orchestrator.cli.delay_rows import course_document, emit_course
    from orchestrator.spec.push_order import write_order

    if write is not None:
        write_order(write, order)
    if as_json:
        emit_json(course_document(course, order, momentum))
    else:
        emit_course(course, order, momentum)


def _train(
    orders: Mapping[int | None, Sequence[OrderedPush]],
    rho: float,
    num_tensors: int,
    compensation: str | None,
    condition: float | None,
    seed: int,
) -> HeatMaps:
    from orchestrator.cli.heat_rows import HeatMaps
    from orchestrator.simulate.delay.quadratic import Grid, Method, Quadratic, heat_map

    method = Method(rho=rho, num_tensors=num_tensors, compensation=compensation)
    problem = Quadratic(seed=seed) if condition is None else Quadratic(condition=condition, seed=seed)
    grid = Grid()
    maps = {delay: heat_map(problem, grid, method, order) for delay, order in orders.items()}
    return HeatMaps(problem=problem, method=method, grid=grid, by_delay=maps)


def _tell_maps(maps: HeatMaps, momentum: float, plot: Path | None, as_json: bool) -> None:
    from orchestrator.cli.heat_rows import emit_maps, maps_document

    if plot is not None:
        from orchestrator.cli.heat_plot import draw

        draw(plot, maps)
    if as_json:
        emit_json(maps_document(maps))
    else:
        emit_maps(maps, momentum)
