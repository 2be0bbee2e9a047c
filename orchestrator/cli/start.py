"""`orchestrator run`, `submit` and `resume`: the commands that set a job going, and stay with it where asked to."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.options import (
    Address,
    JobName,
    NewName,
    Overrides,
    Resume,
    SpecPath,
    Storage,
    open_job,
)
from orchestrator.cli.output import emit, tell
from orchestrator.core.errors import SUCCESS

if TYPE_CHECKING:
    from orchestrator.launch.prepare import PreparedJob
    from orchestrator.launch.ray_jobs import RayJobs

Follow = Annotated[bool, typer.Option("--follow/--no-follow", help="Stay with the job and end with its exit code.")]


def run(
    spec: SpecPath,
    overrides: Overrides = [],  # noqa: B006 - typer reads the default and never changes it
    storage: Storage = None,
    resume: Resume = False,
    new_name: NewName = False,
) -> int:
    """Run a job here and now, with progress.

    It gets a Ray of its own, which ends with it.

    Ctrl-C ends it after the current step with a checkpoint, a second Ctrl-C at once.
    """
    return _run_here(_prepare(spec, overrides, storage, resume=resume, new_name=new_name))


def submit(
    spec: SpecPath,
    address: Address = None,
    follow: Follow = False,
    overrides: Overrides = [],  # noqa: B006 - as above
    storage: Storage = None,
    resume: Resume = False,
    new_name: NewName = False,
) -> int:
    """Hand a job to a Ray cluster and print its name.

    The storage must be a folder that this machine and all nodes of the cluster share.
    """
    from orchestrator.launch.preflight import check_quotas
    from orchestrator.launch.ray_jobs import RayJobs
    from orchestrator.launch.store import resolve_storage
    from orchestrator.spec.load import load_spec

    # What is wrong with files is told before a cluster is looked for.
    loaded = load_spec(spec, overrides)
    check_quotas(resolve_storage(storage, loaded.spec.storage, os.environ))
    cluster = RayJobs(address)
    cluster.connect()
    return _submit_to(cluster, _prepare(spec, overrides, storage, resume=resume, new_name=new_name), follow=follow)


def resume(
    job: JobName,
    overrides: Overrides = [],  # noqa: B006 - as above
    address: Address = None,
    follow: Follow = False,
    storage: Storage = None,
) -> int:
    """Continue a job from its last checkpoint.

    It may have stopped, failed or lost its driver, and continues where it ran before.

    `--set` may change what does not define the training, such as `resources.workers=3`. `--address` moves the job to
    another cluster. A job that ran here runs here again, in the foreground.
    """
    from orchestrator.launch.backends import backend_of
    from orchestrator.launch.preflight import check_quotas
    from orchestrator.launch.prepare import prepare_resume
    from orchestrator.launch.ray_jobs import RayJobs

    directory = open_job(job, storage)
    backend = RayJobs(address) if address else backend_of(directory.read_state())
    if not isinstance(backend, RayJobs):
        return _run_here(prepare_resume(directory, overrides))
    check_quotas(directory.root.parent)
    backend.connect()
    return _submit_to(backend, prepare_resume(directory, overrides), follow=follow)


def _prepare(spec: Path, overrides: list[str], storage: str | None, *, resume: bool, new_name: bool) -> PreparedJob:
    from orchestrator.launch.prepare import prepare
    from orchestrator.launch.store import resolve_storage
    from orchestrator.spec.load import load_spec

    loaded = load_spec(spec, overrides)
    folder = resolve_storage(storage, loaded.spec.storage, os.environ)
    return prepare(loaded, folder, resume=resume, new_name=new_name)


def _run_here(prepared: PreparedJob) -> int:
    from orchestrator.cli.attend import attend_local

    _tell_warnings(prepared)
    return attend_local(prepared)


def _submit_to(cluster: RayJobs, prepared: PreparedJob, *, follow: bool) -> int:
    from orchestrator.cli.attend import attend_remote

    _tell_warnings(prepared)
    submission_id = cluster.start(prepared)
    name = prepared.spec.name
    emit(name)
    tell(f"Ray job {submission_id} at {cluster.address}, run directory {prepared.run_directory.root}")
    if follow:
        return attend_remote(prepared)
    tell(f"Next: `orchestrator status {name}`, `orchestrator logs -f {name}`, `orchestrator stop {name}`.")
    return SUCCESS


def _tell_warnings(prepared: PreparedJob) -> None:
    for warning in prepared.warnings:
        tell(f"warning: {warning}")
