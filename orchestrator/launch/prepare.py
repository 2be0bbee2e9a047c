"""From a loaded spec to a run directory that a driver can be started on, whole or not at all."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.core.environment import own_environment
from orchestrator.core.errors import UsageError
from orchestrator.core.run_directory import RunDirectory, write_atomically
from orchestrator.launch.continuation import overridden, refuse_to_continue, refuse_unlike, wait_for_last_driver
from orchestrator.launch.control import exclusive, reconcile
from orchestrator.launch.environment import with_owner, with_tracking_uri
from orchestrator.launch.package import Package, copy_into
from orchestrator.launch.preflight import Checked, check_before_start
from orchestrator.launch.processes import this_process
from orchestrator.launch.store import JobStore, NameTakenError, candidate_names
from orchestrator.launch.trials import prepare_trials, requeue_trials
from orchestrator.spec.job import AnyJobSpec, ScriptJobSpec
from orchestrator.spec.load import LoadedSpec, dump_resolved, load_resolved, spec_hash
from orchestrator.tracking.uri import redact


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedJob:
    """A job whose run directory is complete and whose driver has not been started."""

    run_directory: RunDirectory
    spec: AnyJobSpec
    """As in resolved.yaml; its name may differ from the submitted one."""
    resumed: bool
    """Whether the job existed before and continues."""
    warnings: tuple[str, ...] = ()
    """What the submitter should know, one sentence each."""


def prepare(
    loaded: LoadedSpec,
    storage: Path,
    *,
    new_name: bool = False,
    resume: bool = False,
    environ: Mapping[str, str] = os.environ,
) -> PreparedJob:
    """Check everything, then make the run directory in one step: if anything fails, nothing is left.

    Args:
        loaded: The spec.
        storage: Folder of all run directories, as from ``resolve_storage``.
        new_name: If the name is taken, take the next free one: name-2, name-3.
        resume: If there is a job of this name, continue it; the spec and the recipe's code must be the same.
        environ: The submitter's environment.

    Raises:
        UsageError: with every problem that can be known beforehand.
        OutOfReachError: if the tracking server does not answer.
    """
    if new_name and resume:
        raise UsageError("--new-name: a job that resumes keeps its name; leave out --new-name or --resume.")
    store = JobStore(storage)
    is_there = loaded.spec.name in store
    must_be_free = not (new_name or resume)
    checked = check_before_start(loaded, storage, environ, name_must_be_free=must_be_free)
    if resume and is_there:
        return _continue_as(loaded, store.get(loaded.spec.name), checked)
    names = candidate_names(loaded.spec.name)
    with store.staging(loaded.spec.name) as staged:
        copy_into(checked.package, staged.code)
        write_atomically(staged.submitted_spec, loaded.submitted_text)
        staged.logs.mkdir()
        while True:
            named = loaded.spec.model_copy(update={"name": next(names)})
            spec = with_owner(with_tracking_uri(named, checked.tracking_uri))
            _fill(staged, spec, checked.tracking_uri)
            try:
                run_directory = store.publish(staged, spec.name)
            except NameTakenError:
                if not new_name:
                    raise
            else:
                break
    return PreparedJob(run_directory=run_directory, spec=spec, resumed=False, warnings=_warnings(checked.package))


def prepare_resume(
    run_directory: RunDirectory, overrides: Sequence[str] = (), environ: Mapping[str, str] = os.environ
) -> PreparedJob:
    """Make a job that has ended ready to continue from its last checkpoint.

    Args:
        run_directory: The job; one whose driver is lost is closed first.
        overrides: ``a.b=c``; only of fields that do not define the training, see ``continuation.MAY_CHANGE``.
        environ: The submitter's environment; it must supply null values of ``env`` again.

    Raises:
        UsageError: if the job succeeded or may still run, or an override is not allowed.
    """
    spec = overridden(run_directory, overrides)
    own_environment(spec, environ)
    return _continue(run_directory, spec)


def _continue_as(loaded: LoadedSpec, run_directory: RunDirectory, checked: Checked) -> PreparedJob:
    before = load_resolved(run_directory.resolved_spec)
    # A job stays where it is and keeps its history where it is, whatever the environment says now.
    uri = before.tracking.uri if loaded.spec.tracking.uri is None else checked.tracking_uri
    tracking = loaded.spec.tracking.model_copy(update={"uri": uri})
    queue = loaded.spec.queue.model_copy(update={"owner": loaded.spec.queue.owner or before.queue.owner})
    spec = loaded.spec.model_copy(update={"storage": before.storage, "tracking": tracking, "queue": queue})
    refuse_unlike(before, spec, checked.package, run_directory)
    return _continue(run_directory, spec)


def _continue(run_directory: RunDirectory, spec: AnyJobSpec) -> PreparedJob:
    spec = with_owner(spec)
    reconcile(run_directory)
    wait_for_last_driver(run_directory)
    with exclusive(run_directory):
        refuse_to_continue(run_directory)
        backend = run_directory.read_state().get("backend")
        if backend and "submission_id" in backend:
            # The cluster stays on record; the submission is over.
            backend = {**backend, "submission_id": None}
        write_atomically(run_directory.resolved_spec, dump_resolved(spec))
        run_directory.stop_file.unlink(missing_ok=True)
        run_directory.update_state(
            phase="queued",
            reason=None,
            message="",
            finished_at=None,
            backend=backend,
            driver=None,
            submitter=this_process(),
        )
        requeue_trials(run_directory, spec)
    run_directory.event("queued", {"resumed": True})
    return PreparedJob(run_directory=run_directory, spec=spec, resumed=True)


def _fill(staged: RunDirectory, spec: AnyJobSpec, tracking_uri: str) -> None:
    """Write what depends on the name; called again with another name if the first was taken."""
    write_atomically(staged.resolved_spec, dump_resolved(spec))
    staged.update_state(
        phase="queued",
        reason=None,
        message="",
        attempts=0,
        submissions=0,
        step=None if isinstance(spec, ScriptJobSpec) else 0,
        mlflow_run_id=None,
        # A password is not written down: whoever needs it resolves the URI again.
        tracking_uri=tracking_uri if redact(tracking_uri) == tracking_uri else None,
        spec_hash=spec_hash(spec),
        backend=None,
        driver=None,
        submitter=this_process(),
        created_at=time.time(),
        started_at=None,
        finished_at=None,
    )
    staged.events_file.unlink(missing_ok=True)
    staged.event("queued", {"resumed": False})
    prepare_trials(staged, spec)


def _warnings(package: Package) -> tuple[str, ...]:
    links = [f"{link}: a link out of the folder, or to nothing, does not travel." for link in package.links_left_out]
    return (*([package.warning] if package.warning else []), *links)
