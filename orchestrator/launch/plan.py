"""What a job would do, as a value that one can print; nothing is written and no cluster is asked."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from orchestrator.core.coding.build import build_scheme
from orchestrator.launch.environment import tracking_uri, with_tracking_uri
from orchestrator.launch.memory.estimate import MemoryPlan, plan_memory
from orchestrator.launch.package import Package, collect
from orchestrator.launch.phases import PhasePlan, phase_plans, totals
from orchestrator.launch.store import JobStore
from orchestrator.spec.batch_arithmetic import StepDivision, divide_step
from orchestrator.spec.elastic import first_wish, worker_numbers
from orchestrator.spec.job import JobSpec, Script, ScriptJobSpec
from orchestrator.spec.load import LoadedSpec, dump_resolved
from orchestrator.spec.methods.asynchronous import Asynchronous
from orchestrator.spec.methods.coded import Coded
from orchestrator.spec.methods.served import Served
from orchestrator.spec.sweep import has_separate_trials, sweep_of, trials_of
from orchestrator.tracking.uri import redact

LEAST_WORKERS_SHOWN = 8
OF_THE_SCRIPT = "the script decides"


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRow(StepDivision):
    """How one step is divided among some number of workers. All sizes are samples."""

    is_chosen: bool
    """Whether the job may have this number of workers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedPlan:
    """What a served exchange adds to a job."""

    shards: int
    cpus_per_shard: float
    load: float
    """Largest share of a batch that a worker computes in a step; 1 / workers where nothing is computed twice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything that is known before a job starts."""

    resolved: str
    """The spec after base, overrides and defaults, as YAML; the tracking URI without its password."""
    script: str | None
    """Command line of each rank, of a sweep's first trial; None for a recipe. Batch, length and memory are then the
    script's own affair."""
    trials: tuple[Mapping[str, Any], ...]
    """What each trial of a sweep sets, by dotted path; empty without a sweep. Batch, phases and length are those of the
    first trial."""
    concurrent: int | None
    """Trials at the same time, each with workers of its own; None where they share the workers, and without a sweep."""
    batch: tuple[BatchRow, ...]
    """One row for each legal number of workers, up to twice the spec's and at least ``LEAST_WORKERS_SHOWN``; the first
    phase's."""
    phases: tuple[PhasePlan, ...]
    """Every phase of the training; empty for a script."""
    total_steps: int | None
    """None where it depends on the size of the training data."""
    total_samples: int | None
    """None where it depends on the size of the training data."""
    memory: MemoryPlan | None
    """Of one worker in the first phase, with the models of all trials that share it taken to be as large as the first
    one's; None where the model could not be described."""
    memory_unknown: str | None
    """Why nothing is known of the memory."""
    workers: int
    """Of a range the least."""
    max_workers: int
    """The same number, but of a range the most."""
    first_wish: int | None
    """Workers that a range's job asks for at first; None where it takes as many as there is room for."""
    cpus_per_worker: float
    gpus_per_worker: int
    placement: str
    """Ray's placement strategy."""
    served: ServedPlan | None
    """What a served exchange adds; None where workers exchange gradients themselves."""
    package: Package
    """What will be uploaded."""
    run_directory: Path
    name_is_taken: bool
    """Whether the storage already holds a job of this name."""
    tracking_uri: str
    """Where MLflow keeps the history, without a password."""
    experiment: str
    """MLflow experiment."""


def make_plan(loaded: LoadedSpec, storage: Path, environ: Mapping[str, str]) -> Plan:
    """Plan a job. Another process builds the recipe's model and traces a backward, neither with any memory.

    Raises:
        UsageError: if too much would be uploaded.
    """
    spec = loaded.spec
    package = collect(loaded.folder, storage)
    first = trials_of(spec)[0]
    with_recipe = first if isinstance(first, JobSpec) else None
    batch = batch_rows(with_recipe) if with_recipe else ()
    shared = with_recipe
    if with_recipe and not has_separate_trials(spec):
        # With the sweep: workers hold the models of all trials.
        shared = with_recipe.model_copy(update={"sweep": spec.sweep})
    memory = plan_memory(shared, batch, loaded.folder, environ) if shared else OF_THE_SCRIPT
    uri = tracking_uri(spec, storage, environ)
    resources = first.resources
    total_steps, total_samples = totals(with_recipe) if with_recipe else (None, None)
    return Plan(
        resolved=redact(dump_resolved(with_tracking_uri(spec, uri))),
        trials=sweep_of(spec),
        concurrent=spec.trials.concurrent if has_separate_trials(spec) else None,
        script=command_line(first.script) if isinstance(first, ScriptJobSpec) else None,
        batch=batch,
        phases=phase_plans(with_recipe) if with_recipe else (),
        total_steps=total_steps,
        total_samples=total_samples,
        memory=None if isinstance(memory, str) else memory,
        memory_unknown=memory if isinstance(memory, str) else None,
        workers=resources.num_workers,
        max_workers=resources.max_workers,
        first_wish=first_wish(with_recipe or spec),
        cpus_per_worker=resources.cpus_per_worker,
        gpus_per_worker=resources.gpus_per_worker,
        placement=resources.placement,
        served=None if with_recipe is None else served_plan(with_recipe),
        package=package,
        run_directory=storage / spec.name,
        name_is_taken=spec.name in JobStore(storage),
        tracking_uri=redact(uri),
        experiment=spec.tracking.experiment or spec.name,
    )


def served_plan(spec: JobSpec) -> ServedPlan | None:
    """Shards and load of a job whose workers compute for shards."""
    exchange, workers = spec.exchange, spec.resources.num_workers
    if not isinstance(exchange, Served):
        return None
    if isinstance(exchange, Coded):
        load = float(build_scheme(exchange.scheme, workers, **exchange.parameters()).load)
    else:
        load = 1 / exchange.pushes_per_update if isinstance(exchange, Asynchronous) else 1.0
    return ServedPlan(shards=exchange.shards, cpus_per_shard=exchange.cpus_per_shard, load=load)


def command_line(script: Script) -> str:
    """What every rank runs, as one would type it."""
    return shlex.join(["python", script.path, *script.command_line])


def batch_rows(spec: JobSpec) -> tuple[BatchRow, ...]:
    """The arithmetic of one step for each legal number of workers: every worker needs at least one sample."""
    most = min(max(LEAST_WORKERS_SHOWN, 2 * spec.resources.max_workers), spec.batch.global_size)
    return tuple(_batch_row(spec, workers) for workers in range(1, most + 1))


def _batch_row(spec: JobSpec, workers: int) -> BatchRow:
    # Asynchronous workers do not share a step: each computes whole pushes.
    shares = spec.exchange.pushes_per_update if isinstance(spec.exchange, Asynchronous) else workers
    division = replace(divide_step(spec.batch.global_size, shares, spec.batch.planned_micro_size), workers=workers)
    return BatchRow(**asdict(division), is_chosen=workers in worker_numbers(spec))
