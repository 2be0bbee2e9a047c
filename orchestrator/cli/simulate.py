"""`orchestrator simulate stragglers`: what coding schemes would take with workers that are slow now and then."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from orchestrator.cli.export import Force
from orchestrator.cli.figures import counted
from orchestrator.cli.options import Json, Storage, check_target
from orchestrator.cli.output import emit_json, tell
from orchestrator.core.errors import UsageError

if TYPE_CHECKING:
    from orchestrator.core.coding.waiting import WaitRule
    from orchestrator.simulate.stragglers.build import Setting
    from orchestrator.simulate.stragglers.search import Situation
    from orchestrator.simulate.stragglers.trace import Trace

TraceName = Annotated[
    str,
    typer.Option(
        "--trace",
        metavar="KIND|FILE|JOB",
        help="reference, gilbert_elliott, lambda or gpu_fail_slow, as KIND:KEY=VALUE,... where it has parameters; or "
        "recorded times: a CSV or JSONL of seconds, a run directory, a job.",
    ),
]
Schemes = Annotated[
    list[str],
    typer.Option(
        "--scheme",
        metavar="NAME[:KEY=VALUE,...]",
        help="A scheme to replay, as in fractional:stragglers=3; may be repeated.",
        show_default=False,
    ),
]
Search = Annotated[
    bool,
    typer.Option(
        "--search",
        help="Find the fastest parameters of the schemes named without any; of all exact ones where none is named.",
        show_default=False,
    ),
]
NumWorkers = Annotated[
    int | None, typer.Option("--workers", min=1, metavar="N", help="Workers of a made-up trace. [default: 256]")
]
NumJobs = Annotated[
    int | None,
    typer.Option("--jobs", min=1, metavar="N", help="Updates. [default: 480, or all that the recorded times cover]"),
]
Seed = Annotated[int, typer.Option("--seed", min=0, metavar="N", help="Of the random numbers.")]
Wait = Annotated[
    Literal["first", "all", "min"] | None,
    typer.Option(
        "--wait",
        help="When rounds close: at the first moment at which they may; or by the deadline, and if they may not close "
        "there, with all workers or at the first moment after it. [default: min for sr_sgc and m_sgc, else first]",
    ),
]
Mu = Annotated[
    float, typer.Option("--mu", min=0, metavar="MU", help="The deadline is 1 + MU times the fastest worker's time.")
]
CarryOver = Annotated[
    bool,
    typer.Option(
        "--carry-over/--no-carry-over",
        help="Whether a worker that is late begins its next part only when it is done.",
    ),
]
NumModels = Annotated[
    int,
    typer.Option(
        "--models",
        min=1,
        metavar="M",
        help="Models that share the workers in turn; a scheme that decodes T rounds late needs T + 1 of them.",
    ),
]
FixedS = Annotated[
    float,
    typer.Option(
        "--fixed-s",
        min=0,
        metavar="SECONDS",
        help="Of recorded times: seconds of a worker's step that do not grow with its share.",
    ),
]
Decode = Annotated[
    bool,
    typer.Option(
        "--decode",
        help="Also solve for every decode vector, and count the different sets of messages.",
        show_default=False,
    ),
]
Plot = Annotated[Path | None, typer.Option("--plot", metavar="FILE.png", help="Picture to write.", show_default=False)]

DEFAULT_WORKERS, DEFAULT_JOBS = 256, 480
MAX_RECORDED_STEPS = 10_000

app = typer.Typer(no_args_is_help=True, help="Try out what a training would do, without a cluster.")


@app.command()
def stragglers(
    trace: TraceName = "reference",
    schemes: Schemes = [],  # noqa: B006 - typer reads the default and never changes it
    search: Search = False,
    num_workers: NumWorkers = None,
    num_jobs: NumJobs = None,
    num_models: NumModels = 1,
    seed: Seed = 1,
    wait: Wait = None,
    mu: Mu = 1.0,
    carry_over: CarryOver = False,
    fixed_s: FixedS = 0.0,
    decode: Decode = False,
    plot: Plot = None,
    force: Force = False,
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Replay coding schemes over a trace of workers' times.

    Says what each would take, how often it waits beyond its deadline, and what it costs.
    """
    from orchestrator.cli.straggler_rows import as_json_document, emit_table, replayed_rows

    if plot is not None:
        if plot.suffix != ".png":
            raise UsageError(f"--plot: {plot} is no name of a picture; it must end in .png.")
        check_target("--plot", plot, force)
    if not math.isfinite(mu):
        raise UsageError(f"--mu: {mu:g} is no finite number.")
    settings = _settings(schemes, search, num_models)
    known = _trace(trace, num_workers, (num_jobs or DEFAULT_JOBS) + num_models - 1, seed, fixed_s, storage)
    situation = _situation(known, num_jobs, num_models, carry_over)
    rules = {setting.scheme: _rule(setting.scheme, wait, mu) for setting in settings}
    chosen = [_found(setting, situation, rules[setting.scheme]) if search else setting for setting in settings]
    rows = replayed_rows(chosen, situation, rules, decodes=decode, seed=seed)
    if plot is not None:
        from orchestrator.cli.straggler_plot import draw

        draw(plot, known.uncoded_s(), rows)
    if as_json:
        emit_json(as_json_document(trace, situation, rows, mu))
    else:
        emit_table(trace, situation, rows, mu)


def _settings(schemes: Sequence[str], search: bool, num_models: int) -> list[Setting]:
    """What to replay, the uncoded baseline first; what is to be searched has no parameters."""
    from orchestrator.simulate.stragglers.build import Setting, read_setting
    from orchestrator.simulate.stragglers.search import EXACT, SEQUENTIAL
    from orchestrator.spec.methods.coded import SCHEME_PARAMETERS

    if not schemes and not search:
        raise UsageError("--scheme: name at least one, or let --search find the fastest parameters of each.")
    possible = [name for name in EXACT if num_models > 1 or name not in SEQUENTIAL]
    settings = [read_setting(text) for text in schemes] or [Setting(name) for name in possible]
    if not search:
        settings = [s if s.parameters else Setting(s.scheme, SCHEME_PARAMETERS[s.scheme]) for s in settings]
    baseline = Setting("uncoded")
    return [baseline, *(setting for setting in settings if setting != baseline)]


def _trace(
    name: str, num_workers: int | None, num_rounds: int, seed: int, fixed_s: float, storage: str | None
) -> Trace:
    from orchestrator.launch.store import resolve_storage
    from orchestrator.launch.worker_records import read_record
    from orchestrator.simulate.stragglers.build import GENERATORS, generate
    from orchestrator.simulate.stragglers.recorded import estimate

    if name.partition(":")[0] in GENERATORS:
        if fixed_s:
            raise UsageError(
                f"--fixed-s: {fixed_s:g} is for recorded times; a made-up trace has parameters of its own."
            )
        return generate(name, num_rounds, num_workers or DEFAULT_WORKERS, seed=seed)
    record = read_record(name, resolve_storage(storage, None, os.environ), max_steps=MAX_RECORDED_STEPS)
    if num_workers not in (None, record.num_workers):
        raise UsageError(f"--workers: {num_workers}; the recorded times are of {record.num_workers}.")
    return estimate(record, fixed_s=fixed_s).trace


def _situation(trace: Trace, num_jobs: int | None, num_models: int, carry_over: bool) -> Situation:
    from orchestrator.simulate.stragglers.search import Situation

    most = trace.num_rounds - num_models + 1
    if most < 1:
        raise UsageError(f"--models: {num_models}; {trace.num_rounds} recorded steps are too few for so many.")
    return Situation(trace=trace, num_jobs=num_jobs or most, num_models=num_models, carry_over=carry_over)


def _rule(scheme: str, wait: Literal["first", "all", "min"] | None, mu: float) -> WaitRule:
    from orchestrator.core.coding.waiting import WaitRule
    from orchestrator.simulate.stragglers.search import rule_of

    if wait is None:
        return replace(rule_of(scheme), mu=mu)
    return WaitRule(kind="first") if wait == "first" else WaitRule(kind="deadline", mu=mu, wait=wait)


def _found(setting: Setting, situation: Situation, rule: WaitRule) -> Setting:
    """The setting itself where it has parameters, else the fastest of its scheme."""
    from orchestrator.simulate.stragglers.search import SEARCH_JOBS, fastest, legal_settings

    if setting.parameters:
        return setting
    trace = situation.trace
    settings = list(legal_settings(setting.scheme, trace.num_workers, max_delay=situation.num_models - 1))
    if len(settings) > 1:
        tell(f"{setting.scheme}: trying {counted(len(settings), 'setting')}")
    found = fastest(settings, situation.shortened(SEARCH_JOBS), rule)
    if found is None:
        raise UsageError(
            f"--scheme: {setting.scheme} has no legal parameters with {trace.num_workers} workers and --models "
            f"{situation.num_models}."
        )
    return found
