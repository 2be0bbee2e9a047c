"""Which jobs may continue, and what may differ from their first submission: nothing that defines the training."""

from __future__ import annotations

import filecmp
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.core.errors import UsageError
from orchestrator.core.run_directory import TERMINAL_PHASES, RunDirectory
from orchestrator.launch.control import vitals_of
from orchestrator.launch.package import Package
from orchestrator.launch.processes import Liveness
from orchestrator.spec.job import AnyJobSpec
from orchestrator.spec.load import load_resolved, load_spec
from orchestrator.spec.sweep import lists_of

MAY_CHANGE = (
    "engine",
    "exchange.bucket_mib",
    "exchange.worker_timeout_s",
    "resources",
    "checkpoint",
    "retries",
    "queue",
    "tracking.system_metrics_every_s",
    "train.activation_checkpointing",
    "train.compile",
    "train.log_every",
    "data.loader_workers",
    "data.prefetch",
    "optimizer.implementation",
    "optimizer.log_layers_every",
    "trials.concurrent",
)
"""Dotted paths that a resumed job may change; everything under them too."""
LAST_DRIVER_TIMEOUT_S = 120.0
POLL_INTERVAL_S = 0.2


def differing_paths(first: AnyJobSpec, second: AnyJobSpec) -> list[str]:
    """Dotted paths of the fields in which two specs differ, in the order of the spec."""
    one, other = (dict(leaves("", spec.model_dump(mode="json"))) for spec in (first, second))
    paths = [path for path in {**one, **other} if one.get(path, _ABSENT) != other.get(path, _ABSENT)]
    if [*lists_of(first.sweep)[1]] != [*lists_of(second.sweep)[1]] and not any(p.startswith("sweep.") for p in paths):
        paths.append("sweep")  # the order of its paths decides which trial is which
    return paths


def fixed_paths(paths: Sequence[str]) -> list[str]:
    """Those of the paths that a resumed job may not change."""
    return [path for path in paths if not any(path == free or path.startswith(f"{free}.") for free in MAY_CHANGE)]


def refuse_to_continue(run_directory: RunDirectory) -> None:
    """Make sure that the job has ended without having succeeded.

    Raises:
        UsageError: otherwise, saying what the job is doing.
    """
    name = run_directory.name
    state = run_directory.read_state()
    phase = state["phase"]
    if phase == "succeeded":
        raise UsageError(f"job: {name} has succeeded; there is nothing to resume.")
    if phase in TERMINAL_PHASES:
        return
    vitals = vitals_of(run_directory, state)
    if vitals.liveness is Liveness.ALIVE:
        raise UsageError(f"job: {name} is {phase}: {vitals.explanation}; `orchestrator stop {name}` ends it.")
    raise UsageError(
        f"job: whether {name} still runs is not known, and two drivers would spoil it: {vitals.explanation}."
    )


def wait_for_last_driver(run_directory: RunDirectory) -> None:
    """A driver that has written its last word still sends the last metrics; wait until its process has ended.

    Raises:
        UsageError: if it has not after ``LAST_DRIVER_TIMEOUT_S`` seconds.
    """
    deadline = time.monotonic() + LAST_DRIVER_TIMEOUT_S
    while (state := run_directory.read_state())["phase"] in TERMINAL_PHASES:
        vitals = vitals_of(run_directory, state)
        if vitals.liveness is not Liveness.ALIVE:
            return
        if time.monotonic() > deadline:
            name, phase = run_directory.name, state["phase"]
            raise UsageError(f"job: {name} is {phase}, but {vitals.explanation}; try again when that has ended.")
        time.sleep(POLL_INTERVAL_S)


def refuse_unlike(before: AnyJobSpec, now: AnyJobSpec, package: Package, run_directory: RunDirectory) -> None:
    """Make sure that a spec describes the job that it is to continue.

    Compared are the spec, except for ``MAY_CHANGE``, and the Python files of its folder.

    Raises:
        UsageError: listing the dotted paths and files that differ.
    """
    differing = [*fixed_paths(differing_paths(before, now)), *_differing_code(package, run_directory.code)]
    if differing:
        raise UsageError(
            f"--resume: this is not the job {run_directory.name} of {run_directory.root.parent}: "
            f"{', '.join(differing)} differ. Give it another name, or continue the job as it was submitted with "
            f"`orchestrator resume {run_directory.name}`."
        )


def overridden(run_directory: RunDirectory, overrides: Sequence[str]) -> AnyJobSpec:
    """The job's spec with overrides that leave alone what defines the training.

    Raises:
        SpecError: if the result is not a legal spec.
        UsageError: listing the fields that may not change, and those that may.
    """
    before = load_resolved(run_directory.resolved_spec)
    if not overrides:
        return before
    # The spec is checked beside the code, where its recipe and data files are found, without writing there.
    with tempfile.TemporaryDirectory() as folder:
        for entry in run_directory.code.iterdir():
            (Path(folder) / entry.name).symlink_to(entry)
        copy = Path(folder) / f"{run_directory.name}.{run_directory.resolved_spec.name}"
        copy.write_bytes(run_directory.resolved_spec.read_bytes())
        now = load_spec(copy, overrides).spec
    paths = fixed_paths(differing_paths(before, now))
    if paths:
        raise UsageError(
            f"--set: {', '.join(paths)} would change the training that is half done; submit a new job instead. "
            f"A resumed job may change {', '.join(MAY_CHANGE)}."
        )
    return now


_ABSENT = object()


def leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Every value of a spec that is no mapping itself, by its dotted path below ``path``."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from leaves(f"{path}.{key}" if path else str(key), item)
    else:
        yield path, value


def _differing_code(package: Package, code: Path) -> list[str]:
    now = {file for file in package.files if file.endswith(".py")}
    before = {path.relative_to(code).as_posix() for path in code.rglob("*.py")}
    changed = {file for file in now & before if not filecmp.cmp(package.folder / file, code / file, shallow=False)}
    return sorted(changed | (now ^ before))
