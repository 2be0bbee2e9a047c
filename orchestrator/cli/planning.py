"""`orchestrator plan`: what a job would do, without doing any of it."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from orchestrator.cli.figures import counted, figure, size
from orchestrator.cli.options import Json, Overrides, SpecPath, Storage
from orchestrator.cli.output import aligned, emit, emit_fields, emit_json, paint, tell

if TYPE_CHECKING:
    from orchestrator.launch.memory.estimate import MemoryPlan
    from orchestrator.launch.memory.model import Memory
    from orchestrator.launch.phases import PhasePlan
    from orchestrator.launch.plan import BatchRow, Plan


def plan(
    spec: SpecPath,
    overrides: Overrides = [],  # noqa: B006 - typer reads the default and never changes it
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Print what a job would do, and start nothing.

    The resolved spec, length, batch and learning rate of each phase, the batch for each legal number of workers,
    memory, placement and what will be uploaded.
    """
    from orchestrator.cli.trials import assignment_table
    from orchestrator.launch.plan import make_plan
    from orchestrator.launch.store import resolve_storage
    from orchestrator.spec.load import load_spec

    loaded = load_spec(spec, overrides)
    made = make_plan(loaded, resolve_storage(storage, loaded.spec.storage, os.environ), os.environ)
    if as_json:
        emit_json(_as_json(made))
        return
    emit_fields(_fields(made))
    if made.trials:
        emit("\n" + "\n".join(assignment_table(made.trials)))
        if made.script is None:
            emit("\n" + paint("what follows is trial 0's, the resolved spec apart", "bold"))
    if made.phases:
        emit("\n" + "\n".join(_phase_table(made.phases)))
    if made.batch:
        emit("\n" + "\n".join(_batch_table(made.batch)))
    if made.memory is not None:
        emit("\n" + paint("peak memory per worker, by engine", "bold"))
        emit("\n".join(_memory_table(made.memory)))
    emit("\n" + paint("resolved spec", "bold"))
    emit(made.resolved.rstrip())
    if made.package.warning:
        tell(f"warning: {made.package.warning}")


def _as_json(made: Plan) -> dict[str, Any]:
    """The plan's fields, and the total of every peak beside its parts."""
    value = asdict(made)
    if made.memory is not None:
        value["memory"]["peak"]["total"] = made.memory.peak.total
        for row, shown in zip(made.memory.rows, value["memory"]["rows"], strict=True):
            for engine, peak in row.peaks.items():
                if peak is not None:
                    shown["peaks"][engine]["total"] = peak.total
    return value


def _fields(made: Plan) -> dict[str, Any]:
    files, folder = made.package.files, made.package.folder
    taken = "  (taken: `--resume` continues that job, `--new-name` finds another name)" if made.name_is_taken else ""
    return {
        "run directory": f"{made.run_directory}{taken}",
        **_training(made),
        "placement": _placement(made),
        "upload": f"{counted(len(files), 'file')}, {size(made.package.num_bytes)}, from {folder}",
        "MLflow": f"{made.tracking_uri}, experiment {made.experiment}",
    }


def _training(made: Plan) -> dict[str, str]:
    if made.script is not None:
        which = " (trial 0)" if made.trials else ""
        script = {"script": f"{made.script}, on every worker{which}"}
        return {**_sweep(made), **script, "batch, length and memory": "decided by the script"}
    return {**_sweep(made), "length": _length(made), "memory": _memory(made)}


def _sweep(made: Plan) -> dict[str, str]:
    if not made.trials:
        return {}
    how = "that share the workers"
    if made.concurrent is not None:
        how = f"with workers of their own, {made.concurrent} at a time"
    return {"sweep": f"{counted(len(made.trials), 'trial')} {how}"}


def _length(made: Plan) -> str:
    known = _counts(made.total_steps, made.total_samples)
    if not known:
        return "known once the training data is counted"
    return f"{known} (trial 0)" if made.trials else known


def _counts(steps: int | None, samples: int | None) -> str:
    """As much of a length as is known; where one of both is not, the batch decides it on the way."""
    return ", ".join(
        counted(number, noun) for number, noun in ((steps, "step"), (samples, "sample")) if number is not None
    )


def _placement(made: Plan) -> str:
    each = f"{counted(made.cpus_per_worker, 'CPU')} and {counted(made.gpus_per_worker, 'GPU')}"
    number = counted(made.workers, "worker") if made.workers == made.max_workers else _elastic(made)
    workers = f"{number} with {each} each, {made.placement}"
    served = made.served
    if served is None:
        return workers
    shards = f"{counted(served.shards, 'shard')} with {counted(served.cpus_per_shard, 'CPU')} each"
    times = f"{served.load * made.workers:.3g} times its share"
    return f"{workers}; {shards}. A worker computes up to {served.load:.3g} of a batch per step, {times}"


def _elastic(made: Plan) -> str:
    how_many = "there is room for" if made.first_wish is None else f"it asks for ({made.first_wish:,} at first)"
    return f"{made.workers:,} to {made.max_workers:,} workers, as many as {how_many},"


def _memory(made: Plan) -> str:
    memory = made.memory
    if memory is None:
        return f"not known: {made.memory_unknown}"
    whose = "GPU" if memory.on_gpu else "host"
    when = " of the first phase" if len(made.phases) > 1 else ""
    lines = [
        f"{size(memory.peak.total)} of {whose} memory per worker at the peak{when}, "
        f"{memory.num_parameters:,} parameters",
        _parts(memory.peak),
    ]
    if made.trials and made.concurrent is None:
        lines.append(f"with the weights and gradients of {counted(len(made.trials), 'model')} like trial 0's")
    if memory.checkpoint_copy:
        lines.append(f"{size(memory.checkpoint_copy)} of host memory for asynchronous checkpoints")
    if memory.activations_unknown is not None:
        lines.append(f"activations are not known and not counted: {memory.activations_unknown}")
    return "\n".join(lines)


def _parts(peak: Memory) -> str:
    """What the peak is made of, in lines short enough for a terminal."""
    kept = {"parameters": peak.parameters, "gradients": peak.gradients, "optimizer": peak.optimizer}
    passing = {"activations": peak.activations, "communication": peak.communication, "moved to the host": peak.host}
    lines = (
        ", ".join(f"{name} {size(num_bytes)}" for name, num_bytes in parts.items() if num_bytes)
        for parts in (kept, passing)
    )
    return "\n".join(line for line in lines if line)


def _memory_table(memory: MemoryPlan) -> list[str]:
    header = ("", "WORKERS", *(engine.upper() for engine in memory.rows[0].peaks))
    cells = [
        (
            ">" if row.is_chosen else "",
            str(row.workers),
            *(_peak(peak, row.is_chosen and engine == memory.engine) for engine, peak in row.peaks.items()),
        )
        for row in memory.rows
    ]
    return aligned([header, *cells])


def _peak(peak: Memory | None, is_chosen: bool) -> str:
    if peak is None:
        return "-"
    return paint(size(peak.total), "bold") if is_chosen else size(peak.total)


def _phase_table(phases: tuple[PhasePlan, ...]) -> list[str]:
    scaled = any(phase.betas is not None for phase in phases)
    header = ("PHASE", "LENGTH", "BATCH", "BACKWARDS PER STEP", "PEAK LR", "WARMUP", *(("BETAS", "EPS") * scaled))
    cells = [
        (
            str(number),
            _phase_length(phase),
            f"{phase.global_batch_size:,}",
            str(phase.division.num_micro_batches),
            figure(phase.peak_lr),
            _warmup(phase),
            *(_scaled_numbers(phase) if scaled else ()),
        )
        for number, phase in enumerate(phases, 1)
    ]
    return aligned([header, *cells])


def _phase_length(phase: PhasePlan) -> str:
    return _counts(phase.total_steps, phase.total_samples) or counted(phase.epochs or 0, "epoch")


def _warmup(phase: PhasePlan) -> str:
    if phase.warmup_samples is None:
        return counted(phase.warmup_epochs or 0, "epoch")
    if phase.warmup_samples == 0:
        return "none"
    steps = counted(phase.warmup_samples / phase.global_batch_size, "step")
    return f"{counted(phase.warmup_samples, 'sample')} ({steps})"


def _scaled_numbers(phase: PhasePlan) -> tuple[str, str]:
    """Every phase has the same rule, so all have them or none."""
    return ", ".join(f"{beta:.6g}" for beta in phase.betas or ()), f"{phase.eps:.4g}"


def _batch_table(rows: tuple[BatchRow, ...]) -> list[str]:
    header = ("", "WORKERS", "SAMPLES PER WORKER", "BACKWARDS PER STEP", "SAMPLES PER BACKWARD")
    cells = [
        (
            ">" if row.is_chosen else "",
            str(row.workers),
            _span(row.smallest_slice, row.largest_slice),
            str(row.num_micro_batches),
            f"{'up to ' if row.largest_slice % row.num_micro_batches else ''}{row.largest_micro_batch:,}",
        )
        for row in rows
    ]
    return aligned([header, *cells])


def _span(least: int, most: int) -> str:
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"
