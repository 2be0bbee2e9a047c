"""Jobs that a lost cluster has left behind: which they are, and how each is set going again, once.

``survey`` only looks. ``resubmit`` acts on what it saw, and only if nothing has moved the job since: two of them at the
same time, or one beside `orchestrator resume`, start one driver.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

from orchestrator.core.errors import OrchestratorError, OutOfReachError
from orchestrator.core.run_directory import TERMINAL_PHASES, RunDirectory
from orchestrator.launch.backends import Vitals, backend_of
from orchestrator.launch.control import exclusive
from orchestrator.launch.lost import LOST, declare_lost
from orchestrator.launch.prepare import prepare_resume
from orchestrator.launch.processes import Liveness
from orchestrator.launch.ray_jobs import RayJobs
from orchestrator.launch.store import JobStore
from orchestrator.launch.vital_signs import SILENCE_GRACE_S, without_cluster
from orchestrator.spec.load import load_resolved
from orchestrator.spec.problems import SpecError

RECENT_S = 7 * 86400.0
"""A job that was found lost longer ago than this is told, and resubmitted only where it is named."""


class Action(Enum):
    """What is done about a job."""

    RESUBMIT = "resubmit"
    """It is lost, and to be handed to the cluster."""
    RESUBMITTED = "resubmitted"
    LEAVE = "left alone"
    """It lives, or nobody asked for it."""
    LOCAL = "local"
    """It is lost, but ran with `orchestrator run`, and nobody asked for the cluster."""
    UNDECIDED = "undecided"
    """It may live."""
    CLOSE = "close"
    """It is lost, but somebody had asked for its end."""
    CLOSED = "closed"
    FAILED = "failed"
    """It could not be handed over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One job, what is done about it and why."""

    run: RunDirectory
    action: Action
    why: str
    """One clause for a person."""
    phase: str = ""
    """As its record had it."""
    priority: int = 0
    submitted_at: float = 0.0
    """Of the first time, in seconds since 1970."""
    seen_at: float | None = None
    """When its record was last written, as it was seen."""
    submission_id: str | None = None
    """Of the new submission."""


class Clusters:
    """The clusters that jobs are recorded with; each is asked once whether it answers."""

    def __init__(self, asked: RayJobs | None = None) -> None:
        self._known: dict[str, RayJobs | str] = {} if asked is None else {asked.address: asked}

    def vitals(self, run: RunDirectory, state: Mapping[str, Any]) -> Vitals:
        """See ``Backend``; a cluster that does not answer costs its time once, however many jobs it had."""
        backend = backend_of(state)
        if not isinstance(backend, RayJobs) or state["backend"]["submission_id"] is None:
            return backend.vitals(run, state)
        if backend.address not in self._known:
            try:
                backend.connect()
            except OutOfReachError as error:
                self._known[backend.address] = str(error)
            else:
                self._known[backend.address] = backend
        cluster = self._known[backend.address]
        return without_cluster(run, state, cluster) if isinstance(cluster, str) else cluster.vitals(run, state)


def survey(
    storage: Path,
    clusters: Clusters,
    *,
    names: Collection[str] = (),
    lost: Collection[str] = (),
    with_local: bool = False,
) -> list[Case]:
    """What is to be done about each job that has not ended, or whose driver was found lost. Changes nothing.

    Args:
        storage: Folder of all run directories.
        clusters: Who is asked whether a job lives.
        names: Only these jobs, also those that were found lost long ago; none of them is all.
        lost: Addresses of clusters that are gone for good, on the caller's word.
        with_local: Whether jobs of `orchestrator run` are to be resubmitted too.

    Returns:
        Those to resubmit first, by priority and then by the time of their first submission; then the others.

    Raises:
        UsageError: if there is no job of one of the names.
    """
    store = JobStore(storage)
    runs = [store.get(name) for name in names] or store.jobs()
    cases = [case for run in runs if (case := _case(run, clusters, bool(names), lost, with_local)) is not None]
    return sorted(
        cases, key=lambda case: (case.action is not Action.RESUBMIT, -case.priority, case.submitted_at, case.run.name)
    )


def resubmit(case: Case, cluster: RayJobs, environ: Mapping[str, str] = os.environ) -> Case:
    """Carry out what ``survey`` has found to do about a job; the case as it is afterwards.

    Never raises for what is wrong with one job: the others have their turn.
    """
    if case.action not in (Action.RESUBMIT, Action.CLOSE):
        return case
    try:
        if not _take(case):
            return replace(case, action=Action.LEAVE, why="something else has taken it up in the meantime")
        if case.action is Action.CLOSE:
            return replace(case, action=Action.CLOSED)
        submission_id = cluster.start(prepare_resume(case.run, environ=environ), environ)
    except (OrchestratorError, SpecError, OSError) as error:
        action = Action.FAILED if _stays_lost(case.run) else Action.LEAVE
        return replace(case, action=action, why=str(error))
    return replace(case, action=Action.RESUBMITTED, submission_id=submission_id)


def _case(
    run: RunDirectory, clusters: Clusters, is_named: bool, lost: Collection[str], with_local: bool
) -> Case | None:
    """A job's case; None for one that has ended with a last word, unless it is named."""
    try:
        state = run.read_state()
        phase = state["phase"]
        case = Case(
            run=run,
            action=Action.LEAVE,
            why=f"it has ended as {phase}",
            phase=phase,
            submitted_at=state["created_at"],
            seen_at=state["updated_at"],
        )
        if phase in TERMINAL_PHASES and not _is_found_lost(state):
            return case if is_named else None
        case = _judged(case, state, clusters, lost, is_named=is_named)
        if case.action is not Action.RESUBMIT:
            return case
        if (state.get("backend") or {"kind": "local"})["kind"] == "local" and not with_local:
            mend = f"`orchestrator resume {run.name}` continues it here, --local hands it to the cluster"
            return replace(case, action=Action.LOCAL, why=f"{case.why}; {mend}")
        return replace(case, priority=load_resolved(run.resolved_spec).queue.priority)
    except (OrchestratorError, SpecError, OSError, ValueError, KeyError) as error:
        why = f"its record cannot be read: {type(error).__name__}: {error}"
        return Case(run=run, action=Action.FAILED, why=why)


def _judged(case: Case, state: Mapping[str, Any], clusters: Clusters, lost: Collection[str], *, is_named: bool) -> Case:
    """Whether a job that has no last word of its driver is lost."""
    if case.phase in TERMINAL_PHASES:
        age_s = time.time() - (state.get("finished_at") or 0.0)
        if age_s > RECENT_S and not is_named:
            mend = f"`orchestrator recover {case.run.name}` resubmits it"
            return replace(case, why=f"it was found lost {age_s / 86400:.0f} days ago; {mend}")
        if case.run.stop_file.exists() and not is_named:
            return replace(case, why="it was found lost after somebody had asked it to stop")
        return replace(case, action=Action.RESUBMIT, why=state["message"].partition("; `")[0])
    vitals = clusters.vitals(case.run, state)
    why, address = vitals.explanation.rstrip("."), (state.get("backend") or {}).get("address")
    if vitals.liveness is Liveness.ALIVE:
        return replace(case, why=why)
    if vitals.liveness is Liveness.UNKNOWN and address not in lost:
        wait = f"it counts as lost after {SILENCE_GRACE_S / 60:.0f} silent minutes"
        word = f", or at once with --lost {address}" if address else ""
        return replace(case, action=Action.UNDECIDED, why=f"{why}; {wait}{word}")
    if vitals.ended_as == "stopped" or case.run.stop_file.exists():
        return replace(case, action=Action.CLOSE, why=f"{why}; somebody had asked it to stop")
    return replace(case, action=Action.RESUBMIT, why=why)


def _take(case: Case) -> bool:
    """Close the record of a lost job if it is still what was seen, or has been closed since; whether it was.

    Of several that find it closed ``prepare_resume`` lets one continue it.
    """
    with exclusive(case.run):
        state = case.run.read_state()
        if _is_found_lost(state):
            return True
        if state["updated_at"] != case.seen_at:
            return False
        declare_lost(case.run, case.why, phase="stopped" if case.action is Action.CLOSE else "failed")
    return True


def _is_found_lost(state: Mapping[str, Any]) -> bool:
    """Whether somebody has closed the record for want of a driver."""
    return bool(state["phase"] == "failed" and state.get("reason") == LOST)


def _stays_lost(run: RunDirectory) -> bool:
    """Whether nobody has it now. One that the cluster did not take stays lost, for the next recovery to take it up."""
    with exclusive(run):
        state = run.read_state()
        if state["phase"] == "failed" and state.get("reason") == "submission_failed":
            run.update_state(reason=LOST)
        return state["phase"] in TERMINAL_PHASES
