"""What a job would do, as a value that one can print; nothing is written and no cluster is asked."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.data.sampler import num_micro_batches, share
from orchestrator.launch.environment import tracking_uri, with_tracking_uri
from orchestrator.launch.package import Package, collect
from orchestrator.launch.store import JobStore
from orchestrator.spec.job import JobSpec
from orchestrator.spec.load import LoadedSpec, dump_resolved
from orchestrator.spec.methods.optimizers import AdamW, Lamb, Sgd
from orchestrator.tracking.uri import redact

DESCRIBE_MODULE = "orchestrator.train.describe"
DESCRIBE_TIMEOUT_S = 120.0
LEAST_WORKERS_SHOWN = 8
FLOAT32_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRow:
    """How one step is divided among some number of workers. All sizes are samples."""

    workers: int
    smallest_slice: int
    """Least samples of a worker per step."""
    largest_slice: int
    """Most samples of a worker per step."""
    num_micro_batches: int
    """Backwards per worker and step, the same on every worker."""
    largest_micro_batch: int
    """Most samples of one backward."""
    is_chosen: bool
    """Whether the spec asks for this number of workers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryEstimate:
    """Bytes that one worker holds all the time; activations and the data come on top."""

    num_parameters: int
    """Trainable parameters."""
    weight_bytes: int
    """All parameters and buffers."""
    gradient_bytes: int
    optimizer_bytes: int

    @property
    def total_bytes(self) -> int:
        """Weights, gradients and optimizer state together."""
        return self.weight_bytes + self.gradient_bytes + self.optimizer_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything that is known before a job starts."""

    resolved: str
    """The spec after base, overrides and defaults, as YAML; the tracking URI without its password."""
    batch: tuple[BatchRow, ...]
    """One row for each legal number of workers, up to twice the spec's and at least ``LEAST_WORKERS_SHOWN``."""
    total_steps: int | None
    """None where it depends on the size of the training data."""
    total_samples: int | None
    """None where it depends on the size of the training data."""
    memory: MemoryEstimate | None
    """Of one worker; None where the model could not be described."""
    memory_unknown: str | None
    """Why there is no memory estimate."""
    workers: int
    cpus_per_worker: float
    gpus_per_worker: int
    placement: str
    """Ray's placement strategy."""
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
    """Plan a job. Builds the recipe's model in another process, without its weights, to count its parameters.

    Raises:
        UsageError: if too much would be uploaded.
    """
    spec = loaded.spec
    package = collect(loaded.folder, storage)
    memory = estimate_memory(spec, loaded.folder, environ)
    uri = tracking_uri(spec, storage, environ)
    total_steps, total_samples = totals(spec)
    return Plan(
        resolved=redact(dump_resolved(with_tracking_uri(spec, uri))),
        batch=batch_rows(spec),
        total_steps=total_steps,
        total_samples=total_samples,
        memory=None if isinstance(memory, str) else memory,
        memory_unknown=memory if isinstance(memory, str) else None,
        workers=spec.resources.workers,
        cpus_per_worker=spec.resources.cpus_per_worker,
        gpus_per_worker=spec.resources.gpus_per_worker,
        placement=spec.resources.placement,
        package=package,
        run_directory=storage / spec.name,
        name_is_taken=spec.name in JobStore(storage),
        tracking_uri=redact(uri),
        experiment=spec.tracking.experiment or spec.name,
    )


def batch_rows(spec: JobSpec) -> tuple[BatchRow, ...]:
    """The arithmetic of one step for each legal number of workers: every worker needs at least one sample."""
    most = min(max(LEAST_WORKERS_SHOWN, 2 * spec.resources.workers), spec.batch.global_size)
    return tuple(_batch_row(spec, workers) for workers in range(1, most + 1))


def totals(spec: JobSpec) -> tuple[int | None, int | None]:
    """Steps and samples of the whole training, as far as the spec alone says; the last step may be smaller."""
    size = spec.batch.global_size
    if spec.train.steps is not None:
        return spec.train.steps, spec.train.steps * size
    if spec.train.samples is not None:
        return -(-spec.train.samples // size), spec.train.samples
    return None, None


def estimate_memory(spec: JobSpec, code_folder: Path, environ: Mapping[str, str]) -> MemoryEstimate | str:
    """Memory of one worker, every worker holding a whole replica; or why it is not known, in one sentence."""
    sizes = describe_model(spec, code_folder, environ)
    if isinstance(sizes, str):
        return sizes
    gradient_bytes = sizes["num_parameters"] * FLOAT32_BYTES
    return MemoryEstimate(
        num_parameters=sizes["num_parameters"],
        weight_bytes=sizes["parameter_bytes"] + sizes["buffer_bytes"],
        gradient_bytes=gradient_bytes,
        optimizer_bytes=gradient_bytes * num_moments(spec.optimizer),
    )


def num_moments(optimizer: Sgd | AdamW | Lamb) -> int:
    """Tensors of the size of the parameters that an optimizer keeps."""
    if isinstance(optimizer, Sgd):
        return 1 if optimizer.momentum else 0
    return 3 if isinstance(optimizer, AdamW) and optimizer.amsgrad else 2


def describe_model(spec: JobSpec, code_folder: Path, environ: Mapping[str, str]) -> dict[str, int] | str:
    """Sizes of the recipe's model, or why they are unknown; asked of another process, as torch is not imported here."""
    own = {name: value for name, value in spec.env.items() if value is not None}
    with tempfile.TemporaryDirectory() as folder:
        resolved = Path(folder) / "resolved.yaml"
        resolved.write_text(dump_resolved(spec), encoding="utf-8")
        command = [sys.executable, "-P", "-m", DESCRIBE_MODULE, str(code_folder), str(resolved)]
        try:
            process = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=DESCRIBE_TIMEOUT_S,
                cwd=code_folder,
                env={**environ, **own, "PYTHONDONTWRITEBYTECODE": "1"},
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"building the model took longer than {DESCRIBE_TIMEOUT_S:g} s"
    return _parse_description(process)


def _parse_description(process: subprocess.CompletedProcess[str]) -> dict[str, int] | str:
    # The recipe may print as well; the answer is the last line.
    last_line = (process.stdout.strip().splitlines() or [""])[-1]
    try:
        answer: dict[str, Any] = json.loads(last_line)
        if "error" not in answer:
            return {key: int(answer[key]) for key in ("num_parameters", "parameter_bytes", "buffer_bytes")}
        return str(answer["error"])
    except (ValueError, KeyError, TypeError):
        errors = process.stderr.strip().splitlines() or [f"exit code {process.returncode}"]
        return f"building the model failed: {errors[-1]}"


def _batch_row(spec: JobSpec, workers: int) -> BatchRow:
    size = spec.batch.global_size
    slices = [stop - start for start, stop in (share(size, rank, workers) for rank in (0, workers - 1))]
    num_micro = num_micro_batches(size, workers, spec.batch.micro_size)
    return BatchRow(
        workers=workers,
        smallest_slice=slices[-1],
        largest_slice=slices[0],
        num_micro_batches=num_micro,
        largest_micro_batch=-(-slices[0] // num_micro),
        is_chosen=workers == spec.resources.workers,
    )
