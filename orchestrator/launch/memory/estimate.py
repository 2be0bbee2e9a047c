"""What a rank holds under each engine and number of workers: the table of ``orchestrator plan``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import ceil
from operator import attrgetter
from pathlib import Path
from typing import Any, get_args

from orchestrator.launch.memory.ask import describe_model
from orchestrator.launch.memory.deepspeed import ZeroSizes, deepspeed_peak
from orchestrator.launch.memory.fsdp2 import fsdp2_peak
from orchestrator.launch.memory.model import Memory, Model
from orchestrator.launch.memory.replicas import ddp_peak, served_peak
from orchestrator.launch.memory.step import Setting, older_state, optimizer_cost
from orchestrator.spec.accelerate_config import resolve_accelerate_config
from orchestrator.spec.batch_arithmetic import StepDivision
from orchestrator.spec.check_engine import admits
from orchestrator.spec.deepspeed_config import resolve_deepspeed_config
from orchestrator.spec.elastic import worker_numbers
from orchestrator.spec.job import JobSpec
from orchestrator.spec.methods.engines import HESSIAN_PRODUCTS, Accelerate, Ddp, DeepSpeed, Engine, Fsdp2
from orchestrator.spec.methods.served import Served
from orchestrator.spec.sharding import fsdp2_of
from orchestrator.spec.sweep import trials_of

Formula = Callable[[Model, Setting], Memory | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryRow:
    """Peak of a rank for one number of workers."""

    workers: int
    peaks: Mapping[str, Memory | None]
    """By engine, those left out that the spec's methods may not be combined with; None where an engine does not take so
    many workers."""
    is_chosen: bool
    """Whether the job may have this number of workers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """What one rank needs, under the engine that the spec asks for and under the others."""

    num_parameters: int
    """Trainable parameters."""
    engine: str
    """The chosen one; the others are as their defaults have them."""
    peak: Memory
    """Of the chosen engine and number of workers; the largest where there may be several numbers."""
    checkpoint_copy: int
    """Host memory that an asynchronous checkpoint is written from, in bytes; on top of the peak."""
    rows: tuple[MemoryRow, ...]
    on_gpu: bool
    activations_unknown: str | None
    """Why the peaks are without activations; None where they are with them."""


def plan_memory(
    spec: JobSpec, divisions: Sequence[StepDivision], code_folder: Path, environ: Mapping[str, str]
) -> MemoryPlan | str:
    """The plan, or why there is none, in one sentence.

    Args:
        spec: the job.
        divisions: how a step is divided, for each number of workers; the spec's own among them.
        code_folder: folder of the spec.
        environ: environment of the process that builds the model.
    """
    if HESSIAN_PRODUCTS in spec.optimizer.requires:
        return "the optimizer differentiates the loss twice, and what that keeps is not traced."
    model = describe_model(spec, code_folder, environ, sizes_to_trace(spec, divisions))
    if isinstance(model, str):
        return model
    formulas = formulas_of(spec, code_folder)
    rows = tuple(_row(spec, model, division, formulas) for division in divisions)
    engine = engine_title(spec)
    peaks = [peak for row in rows if row.is_chosen and (peak := row.peaks[engine]) is not None]
    assert peaks  # a spec whose engine does not take its workers is refused
    return MemoryPlan(
        num_parameters=model.num_parameters,
        engine=engine,
        peak=max(peaks, key=attrgetter("total")),
        checkpoint_copy=checkpoint_copy(spec, model),
        rows=rows,
        on_gpu=spec.resources.gpus_per_worker > 0,
        activations_unknown=model.activations_unknown,
    )


def sizes_to_trace(spec: JobSpec, divisions: Iterable[StepDivision]) -> list[int]:
    """The smallest, the largest and the spec's own micro-batch, in samples, the own first; others lie between."""
    sizes = {division.workers: division.largest_micro_batch for division in divisions}
    return list(dict.fromkeys((sizes[spec.resources.num_workers], min(sizes.values()), max(sizes.values()))))


def formulas_of(spec: JobSpec, code_folder: Path) -> dict[str, Formula]:
    """The formula of every engine that the spec's methods may be combined with.

    The spec's own has its settings, the others their defaults.

    Raises:
        SpecError: where the engine's own configuration cannot be read.
    """
    defaults: dict[str, tuple[Engine, Formula]] = {
        "ddp": (Ddp(name="ddp"), _replica_formula(spec)),
        "fsdp2": (Fsdp2(name="fsdp2"), partial(fsdp2_peak, config=Fsdp2(name="fsdp2"))),
    }
    for stage in get_args(DeepSpeed.model_fields["zero_stage"].annotation):
        engine = DeepSpeed(name="deepspeed", zero_stage=stage)
        defaults[f"deepspeed {stage}"] = engine, partial(deepspeed_peak, zero=ZeroSizes(stage=stage))
    formulas = {title: formula for title, (engine, formula) in defaults.items() if admits(engine, spec)}
    sharding = fsdp2_of(spec, code_folder)
    if sharding is not None:
        formulas[engine_title(spec)] = partial(_fsdp2_if_possible, config=sharding)
    config = _deepspeed_config(spec, code_folder)
    if config is not None:
        formulas[engine_title(spec)] = partial(deepspeed_peak, zero=ZeroSizes.from_config(config))
    return formulas


def _replica_formula(spec: JobSpec) -> Formula:
    if spec.exchange.topology == "served":
        return partial(served_peak, num_models=len(trials_of(spec)))
    return ddp_peak


def _deepspeed_config(spec: JobSpec, code_folder: Path) -> Mapping[str, Any] | None:
    if isinstance(spec.engine, DeepSpeed):
        return resolve_deepspeed_config(spec, code_folder)
    if isinstance(spec.engine, Accelerate):
        return resolve_accelerate_config(spec, code_folder).deepspeed_config
    return None


def _fsdp2_if_possible(model: Model, setting: Setting, config: Fsdp2) -> Memory | None:
    mesh, workers = config.mesh, setting.workers
    fits = workers % mesh.replicate == 0 if mesh.shard is None else workers == mesh.replicate * mesh.shard
    return fsdp2_peak(model, setting, config) if fits else None


def engine_title(spec: JobSpec) -> str:
    """Name of the spec's engine in the table."""
    return f"deepspeed {spec.engine.zero_stage}" if isinstance(spec.engine, DeepSpeed) else spec.engine.name


def checkpoint_copy(spec: JobSpec, model: Model) -> int:
    """Host memory of a rank's share of weights and optimizer state; replicas, or shards, divide the writing."""
    if not spec.checkpoint.asynchronous:
        return 0
    cost = optimizer_cost(spec.optimizer, on_gpu=False)
    cost = replace(cost, moments=cost.moments + older_state(spec))
    state = cost.state_bytes(p.shape for p in model.trainable)
    weights = sum(p.num_bytes for p in model.parameters) + model.buffer_bytes
    writers = spec.exchange.shards if isinstance(spec.exchange, Served) else spec.resources.num_workers
    return ceil((weights + state) / writers)


def setting_of(spec: JobSpec, division: StepDivision) -> Setting:
    """What the formulas need of the spec, for one number of workers."""
    on_gpu = spec.resources.gpus_per_worker > 0
    optimizer, older = optimizer_cost(spec.optimizer, on_gpu=on_gpu), older_state(spec)
    if older:  # and one more: the newest weights while older ones are in their place, or the model that is attacked
        optimizer = replace(optimizer, moments=optimizer.moments + older + 1)
    return Setting(
        workers=division.workers,
        micro_batch_size=division.largest_micro_batch,
        num_micro_batches=division.num_micro_batches,
        optimizer=optimizer,
        on_gpu=on_gpu,
    )


def _row(spec: JobSpec, model: Model, division: StepDivision, formulas: Mapping[str, Formula]) -> MemoryRow:
    setting = setting_of(spec, division)
    return MemoryRow(
        workers=division.workers,
        peaks={name: formula(model, setting) for name, formula in formulas.items()},
        is_chosen=division.workers in worker_numbers(spec),
    )
