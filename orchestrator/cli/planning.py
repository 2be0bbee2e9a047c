"""`orchestrator plan`: what a job would do, without doing any of it."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from orchestrator.cli.figures import counted, size
from orchestrator.cli.options import Json, Overrides, SpecPath, Storage
from orchestrator.cli.output import aligned, emit, emit_fields, emit_json, paint, tell

if TYPE_CHECKING:
    from orchestrator.launch.plan import BatchRow, Plan


def plan(
    spec: SpecPath,
    overrides: Overrides = [],  # noqa: B006 - typer reads the default and never changes it
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Print what a job would do, and start nothing.

    The resolved spec, the batch for each legal number of workers, memory, placement and what will be uploaded.
    """
    from orchestrator.launch.plan import make_plan
    from orchestrator.launch.store import resolve_storage
    from orchestrator.spec.load import load_spec

    loaded = load_spec(spec, overrides)
    made = make_plan(loaded, resolve_storage(storage, loaded.spec.storage, os.environ), os.environ)
    if as_json:
        emit_json(asdict(made))
        return
    emit_fields(_fields(made))
    emit("\n" + "\n".join(_batch_table(made.batch)))
    emit("\n" + paint("resolved spec", "bold"))
    emit(made.resolved.rstrip())
    if made.package.warning:
        tell(f"warning: {made.package.warning}")


def _fields(made: Plan) -> dict[str, Any]:
    files, folder = made.package.files, made.package.folder
    taken = "  (taken: `--resume` continues that job, `--new-name` finds another name)" if made.name_is_taken else ""
    return {
        "run directory": f"{made.run_directory}{taken}",
        "length": _length(made),
        "placement": _placement(made),
        "memory": _memory(made),
        "upload": f"{counted(len(files), 'file')}, {size(made.package.num_bytes)}, from {folder}",
        "MLflow": f"{made.tracking_uri}, experiment {made.experiment}",
    }


def _length(made: Plan) -> str:
    if made.total_steps is None or made.total_samples is None:
        return "known once the training data is counted"
    return f"{counted(made.total_steps, 'step')}, {counted(made.total_samples, 'sample')}"


def _placement(made: Plan) -> str:
    each = f"{counted(made.cpus_per_worker, 'CPU')} and {counted(made.gpus_per_worker, 'GPU')}"
    return f"{counted(made.workers, 'worker')} with {each} each, {made.placement}"


def _memory(made: Plan) -> str:
    memory = made.memory
    if memory is None:
        return f"not known: {made.memory_unknown}"
    parts = {"weights": memory.weight_bytes, "gradients": memory.gradient_bytes, "optimizer": memory.optimizer_bytes}
    listed = ", ".join(f"{name} {size(num_bytes)}" for name, num_bytes in parts.items())
    return (
        f"{size(memory.total_bytes)} per worker for {memory.num_parameters:,} parameters ({listed}); "
        "activations and data come on top"
    )


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
