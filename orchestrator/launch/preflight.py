"""Everything that can be known to be wrong before a job exists, told at once. Leaves nothing behind."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.core.environment import missing_values
from orchestrator.core.errors import OutOfReachError, UsageError
from orchestrator.core.mirror import Mirror
from orchestrator.core.run_directory import RunDirectory
from orchestrator.launch.environment import tracking_uri
from orchestrator.launch.package import Package, collect
from orchestrator.launch.store import JobStore, taken_message
from orchestrator.spec.job import AnyJobSpec, ScriptJobSpec
from orchestrator.spec.load import LoadedSpec
from orchestrator.spec.problems import SpecError
from orchestrator.spec.quotas import read_quotas
from orchestrator.tracking.uri import check_reachable

REACH_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What the checks found out about a job that may start."""

    tracking_uri: str
    """Where the job's history goes, passwords included."""
    package: Package
    """The files that travel with it."""


def check_before_start(
    loaded: LoadedSpec, storage: Path, environ: Mapping[str, str], *, name_must_be_free: bool
) -> Checked:
    """Check storage, name, environment, the files that travel and the tracking server.

    Raises:
        UsageError: listing every problem, one to a line.
        OutOfReachError: if nothing else is wrong than a tracking server or a mirror that does not answer.
    """
    spec = loaded.spec
    problems = [*storage_problems(storage), *missing_values(spec, environ)]
    if name_must_be_free and spec.name in JobStore(storage):
        problems.append(taken_message(RunDirectory(storage / spec.name)))
    package = None
    try:
        package = collect(loaded.folder, storage)
        problems += code_problems(spec, package)
    except UsageError as error:
        problems.append(str(error))
    uri = tracking_uri(spec, storage, environ)
    unreachable = None
    try:
        check_reachable(uri, REACH_TIMEOUT_S)
    except UsageError as error:
        problems.append(f"tracking.uri: {error}")
    except OutOfReachError as error:
        unreachable = f"tracking.uri: {error}"
    if spec.mirror is not None:
        try:
            Mirror(spec.mirror).check()
        except UsageError as error:
            problems.append(str(error))
        except OutOfReachError as error:
            unreachable = str(error) if unreachable is None else f"{unreachable}\n{error}"
    if problems or package is None:
        raise UsageError("\n".join([*problems, *([unreachable] if unreachable else [])]))
    if unreachable:
        raise OutOfReachError(unreachable)
    return Checked(tracking_uri=uri, package=package)


def storage_problems(storage: Path) -> list[str]:
    """One sentence if run directories cannot be made in the storage. A storage that is missing stays missing."""
    # os.path.exists answers False where Path.exists would raise.
    existing = next(folder for folder in (storage, *storage.parents) if os.path.exists(folder))
    probe = existing / f".probe-{uuid.uuid4().hex}"
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        return [f"storage: {storage} cannot be written: {error.strerror}; choose another with --storage or `storage`."]
    return []


def check_quotas(storage: Path) -> None:
    """Make sure that a storage's ``queue.yaml`` can be read, before a cluster's queue goes by it.

    Raises:
        UsageError: with everything that is wrong with it, one to a line.
    """
    try:
        read_quotas(storage)
    except SpecError as error:
        raise UsageError(str(error)) from None


def code_problems(spec: AnyJobSpec, package: Package) -> list[str]:
    """One sentence if the file of the recipe, or the script, does not travel with the job."""
    if isinstance(spec, ScriptJobSpec):
        field, file = "script.path", os.path.normpath(spec.script.path)
    else:
        field, file = "recipe.target", spec.recipe.target.partition(":")[0]
    if not file.endswith(".py") or file in package.files or not (package.folder / file).is_file():
        return []
    return [f"{field}: {file} would not travel with the job; .gitignore, .rayignore or a link leaves it out."]
