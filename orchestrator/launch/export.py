"""The weights of a job's checkpoint in one file; written by another process, as torch is not imported here."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from orchestrator.checkpoint.listing import list_checkpoints, step_of
from orchestrator.core.errors import CheckpointError, UsageError
from orchestrator.core.run_directory import RunDirectory
from orchestrator.spec.job import ScriptJobSpec
from orchestrator.spec.load import load_resolved

EXPORT_MODULE = "orchestrator.train.export"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A file of weights."""

    file: Path
    step: int
    """Of the checkpoint that the weights are from."""
    tensors: int
    bytes: int
    """Size of the file."""


def export(run_directory: RunDirectory, *, step: int | None, output: Path | None, force: bool) -> Exported:
    """Write the weights of a checkpoint as safetensors, under the names of the recipe's own ``state_dict``.

    Args:
        run_directory: of a job, which may be running.
        step: of the checkpoint; None is the latest.
        output: file, or a folder to put ``<job>.safetensors`` in; None is the current folder.
        force: whether a file that exists is replaced.

    Raises:
        UsageError: where there is no such checkpoint, or the file cannot go there.
        CheckpointError: where the checkpoint is damaged, or the file cannot be written.
    """
    file = _file(run_directory.name, output, force=force)
    checkpoint = _checkpoint(run_directory, step)
    command = [sys.executable, "-P", "-m", EXPORT_MODULE, str(checkpoint), str(file)]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode:
        if not checkpoint.exists():
            raise UsageError(f"job: {run_directory.name} has retired {checkpoint.name} in the meantime; try again.")
        said = process.stderr.strip().splitlines() or [f"the export ended with exit code {process.returncode}"]
        raise CheckpointError(said[-1])
    return Exported(file=file, step=step_of(checkpoint), **json.loads(process.stdout))


def _file(name: str, output: Path | None, *, force: bool) -> Path:
    file = Path.cwd() / (output or "")
    if file.is_dir():
        file = file / f"{name}.safetensors"
    if not file.parent.is_dir():
        raise UsageError(f"--output: there is no folder {file.parent}.")
    if file.is_dir() or (file.exists() and not force):
        raise UsageError(f"--output: {file} exists; name another file, or replace it with --force.")
    return file


def _checkpoint(run_directory: RunDirectory, step: int | None) -> Path:
    name = run_directory.name
    found = {step_of(path): path for path in list_checkpoints(run_directory.checkpoints)}
    if run_directory.trials:
        raise UsageError(f"job: {name} is a sweep; a trial's weights are in {run_directory.trial(0).model_file}.")
    if not found and isinstance(load_resolved(run_directory.resolved_spec), ScriptJobSpec):
        raise UsageError(f"job: {name} runs a script, which keeps its checkpoints where it likes.")
    if not found:
        raise UsageError(f"job: {name} has no checkpoint yet; `orchestrator status {name}` shows what it is doing.")
    if step is None:
        return found[max(found)]
    if step not in found:
        steps = ", ".join(map(str, found))
        raise UsageError(f"--step: {name} has no checkpoint of step {step}; there are those of steps {steps}.")
    return found[step]
