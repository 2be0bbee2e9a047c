"""What is known of a driver when no cluster tells: its own process says it on its host, elsewhere its silence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.core.run_directory import RunDirectory
from orchestrator.launch.backends import Vitals
from orchestrator.launch.lost import silence_s
from orchestrator.launch.processes import Liveness, liveness

SILENCE_GRACE_S = 600.0
"""A job that the cluster cannot tell about is lost when nothing was written to its run directory for so long."""
SUBMISSION_GRACE_S = 60.0
"""A submission that the cluster does not know may be on its way for so long after the command behind it has ended."""


def without_cluster(run_directory: RunDirectory, state: Mapping[str, Any], explanation: str) -> Vitals:
    """The cluster does not answer, for the reason that ``explanation`` gives in one sentence."""
    return _by_process(run_directory, state, explanation) or _by_silence(run_directory, explanation, SILENCE_GRACE_S)


def unknown_to_cluster(run_directory: RunDirectory, state: Mapping[str, Any], explanation: str) -> Vitals:
    """The cluster answers and does not know the job: another one has come in its place, or the job is on its way."""
    if state.get("driver"):
        explanation = f"{explanation} any more"
        gone = Vitals(liveness=Liveness.GONE, explanation=explanation)
        return _by_process(run_directory, state, explanation) or gone
    # It may be on its way there: its files are uploaded first, by the command that submits it.
    is_sent = liveness(state.get("submitter"), str(run_directory.root)) is Liveness.GONE
    return _by_silence(run_directory, explanation, SUBMISSION_GRACE_S if is_sent else SILENCE_GRACE_S)


def _by_process(run_directory: RunDirectory, state: Mapping[str, Any], explanation: str) -> Vitals | None:
    """What the driver's process says; None where that is not known from this host."""
    driver = state.get("driver")
    alive = liveness(driver, str(run_directory.root))
    if driver is None or alive is Liveness.UNKNOWN:
        return None
    clause = (
        "but its driver (pid {pid} on {host}) still runs"
        if alive is Liveness.ALIVE
        else ("and its driver (pid {pid} on {host}) has ended")
    )
    return Vitals(liveness=alive, explanation=f"{explanation.rstrip('.')}, {clause.format(**driver)}")


def _by_silence(run_directory: RunDirectory, explanation: str, grace_s: float) -> Vitals:
    silence = silence_s(run_directory)
    if silence <= grace_s:
        return Vitals(liveness=Liveness.UNKNOWN, explanation=explanation)
    explanation = f"{explanation.rstrip('.')}, and the job has written nothing for {silence / 60:.0f} minutes"
    return Vitals(liveness=Liveness.GONE, explanation=explanation)
