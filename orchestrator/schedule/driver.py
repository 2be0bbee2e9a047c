"""The job's driver: a state machine from a prepared run directory to a finished, failed or stopped job.

    preparing --> queued --> placing --> running --> succeeded
                    ^  |                    |------> stopped     (SIGINT or a stop file: checkpoint first, or SIGTERM
                    |  +--> time out        |                     to a script)
                    |                       |------> failed      (budget of the cause is empty)
                    +-----------------------+                    (another attempt, another number of workers, or a more
                                                                  urgent job needs the place)

The same code runs under ``orchestrator run`` (embedded Ray) and as the entrypoint of a Ray job. A private cluster has
no queue: there a job goes from preparing to placing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Sequence
from typing import Any

from orchestrator.core.environment import own_environment
from orchestrator.core.errors import JOB_FAILED, STOPPED, SUCCESS, TIMED_OUT, OrchestratorError
from orchestrator.core.run_directory import RunDirectory, last_json_line
from orchestrator.core.values import Failure, Retry
from orchestrator.schedule.attempt import Attempt, Ended, GangAttempt
from orchestrator.schedule.cluster import connect
from orchestrator.schedule.history import JobHistory
from orchestrator.schedule.lifecycle import Driver
from orchestrator.schedule.place import OwnPlace, Place, QueuedPlace
from orchestrator.schedule.policy import RetryPolicy
from orchestrator.schedule.queue.values import Use
from orchestrator.schedule.retry_classes import classified
from orchestrator.schedule.served_attempt import ServedAttempt
from orchestrator.schedule.trial_states import TrialStates, last_step
from orchestrator.schedule.wait_record import WaitRecord
from orchestrator.spec.elastic import first_wish, is_elastic, with_workers, within_range
from orchestrator.spec.job import AnyJobSpec, JobSpec, ScriptJobSpec
from orchestrator.spec.load import load_resolved
from orchestrator.spec.methods.asynchronous import Asynchronous

_POLL_S = 0.2
_STATE_EVERY_S = 2.0


class PlacementTimeoutError(OrchestratorError):
    """The workers could not be placed within ``queue.timeout_s``."""

    exit_code = TIMED_OUT


class JobDriver(Driver):
    """Runs one job to its end.

    Args:
        directory: prepared by ``launch``.
        embedded: start a private Ray instead of attaching to the one around.
        has_room: the Ray around is that of a sweep, which starts no more trials than fit: there is no queue.
    """

    def __init__(self, directory: RunDirectory, *, embedded: bool, has_room: bool = False) -> None:
        super().__init__(directory, load_resolved(directory.resolved_spec))
        self._trials = TrialStates(directory.trials)
        self._embedded = embedded
        used = directory.read_state().get("retries_used")
        self._policy = RetryPolicy(self._spec.retries, used, rollbacks=_rollbacks(self._spec))
        self._is_resizing = False
        self._why_resized = "resumed"
        """What would explain that the next attempt has another number of workers."""
        is_alone = embedded or has_room
        self._place: Place = OwnPlace(self._spec) if is_alone else QueuedPlace(self._spec, directory)

    def _connect(self) -> None:
        self._directory.event("connected", connect(self._spec, embedded=self._embedded))

    def _break_off(self, history: JobHistory, phase: str, reason: str, message: str, exit_code: int) -> int:
        return self._end(phase, reason, message, exit_code)

    def _close(self) -> None:
        self._place.close()

    def _drive(self, history: JobHistory) -> int:
        while True:
            self._wait_for_place()
            if self._stop_requested:
                return self._end_stopped("stopped before it was placed")
            result = self._one_attempt(history)
            if self._has_script and self._stop_requested:
                # SIGTERM reaches the ranks one after another, and each ends in its own way, or fails for a neighbor.
                return self._end_stopped(result.message)
            if self._has_made_room(result):
                if not self._is_resizing:
                    self._place.give_back()
                continue
            if isinstance(result, Ended):
                return self._end_well(result)
            result = _of_lost_nodes(result, self._place.doubt())
            self._why_resized = result.message
            decision = self._policy.decide(result)
            self._update_state(retries_used=dict(self._policy.used))
            told_by = {"told_by": result.told_by} if result.told_by else {}
            fields = {"cause": result.cause, "rank": result.rank, "message": result.message, **told_by}
            if not isinstance(decision, Retry) or self._stop_requested:
                self._directory.event("gave_up", {**fields, "budget": self._policy.account(result)})
                return self._end("failed", result.cause, result.message, JOB_FAILED)
            self._directory.event("restarting", {**fields, "budget": self._policy.account(result)})

    def _wait_for_place(self) -> None:
        """Wait until all workers have a place, or none is started.

        Raises:
            PlacementTimeoutError: after ``queue.timeout_s``.
        """
        self._directory.preempt_file.unlink(missing_ok=True)
        self._is_resizing = False
        self._tell_wanted()
        self._place.begin()
        self._update_state(phase=self._place.phase, message=None)
        record = WaitRecord(self._directory, self._place, self._update_state)
        timeout_s = self._spec.queue.timeout_s
        while not self._stop_requested and (reason := self._place.waits_for()) is not None:
            record.follow(reason)
            if timeout_s is not None and record.waited_s > timeout_s:
                raise PlacementTimeoutError(f"not placed within queue.timeout_s = {timeout_s:g} s: {reason}")
            time.sleep(_POLL_S)
        if not self._stop_requested:
            record.end()

    def _one_attempt(self, history: JobHistory) -> Ended | Failure:
        number = int(self._directory.read_state().get("attempts", 0)) + 1
        uses = self._place.uses
        workers = self._place.workers if uses is None else sum(use.workers for use in uses)
        self._tell_resized(workers)
        self._update_state(attempts=number, phase="placing", reason=None, message=None, **self._size(workers))
        arguments = {
            "run_directory": str(self._directory.root),
            "attempt": number,
            "tracking_uri": history.uri,
            "mlflow_run_id": history.run_id,
        }
        env = own_environment(self._spec, os.environ)
        attempt = _attempt(self._directory, number, with_workers(self._spec, workers), env, arguments, uses)
        attempt.start()
        phase, updated = "placing", 0.0
        while (result := attempt.wait(_POLL_S)) is None:
            if phase == "placing" and attempt.has_workers:
                phase, updated = "running", 0.0
                script = {"script": self._spec.script.path} if isinstance(self._spec, ScriptJobSpec) else {}
                placed = {"attempt": number, "workers": workers, **script}
                self._directory.event("placed", placed)
            if time.monotonic() - updated > _STATE_EVERY_S:
                updated = time.monotonic()
                self._update_state(phase=phase, step=self._last_step(), workers_wanted=self._tell_wanted())
            self._make_room_if_needed()
            if phase == "running":
                self._resize_if_useful(workers)
        if isinstance(result, Failure):
            return classified(result, self._spec.retries.classes, self._directory.rank_log(number, 0).parent)
        return result

    def _make_room_if_needed(self) -> None:
        """Have the ranks stop with a checkpoint if a more urgent job needs their place."""
        urgent = self._place.is_needed_by()
        if urgent is not None and not self._directory.preempt_file.exists():
            self._directory.event("preempted", {"by": urgent, "step": self._last_step()})
            self._why_resized = f"made room for {urgent}"
            self._directory.preempt_file.touch()

    def _resize_if_useful(self, workers: int) -> None:
        """Have the ranks stop with a checkpoint if more can go on, or fewer are asked for; a script nobody stops."""
        if not is_elastic(self._spec) or self._has_script or self._directory.should_stop():
            return
        if self._place.has_room_beyond(workers) or self._place.has_too_many(workers):
            wanted = self._wanted()
            why = "room for more" if wanted is None else f"{wanted} asked for"
            self._is_resizing, self._why_resized = True, why
            self._directory.preempt_file.touch()

    def _wanted(self) -> int | None:
        """Workers that the training asks for, as its newest line says; None where it takes as many as there are."""
        first = first_wish(self._spec)
        if first is None:
            return None
        line = last_json_line(self._directory.metrics_file) or {}
        return within_range(self._spec, int(line.get("workers_wanted", first)))

    def _tell_wanted(self) -> int | None:
        """Ask for as many workers as the training does, and how many those are."""
        wanted = self._wanted()
        if wanted is not None:
            self._place.want(wanted)
        return wanted

    def _size(self, workers: int) -> dict[str, Any]:
        """The attempt's number of workers, for the state, and what it may be."""
        limits = self._spec.resources.workers
        worker_range = None if isinstance(limits, int) else {"min": limits.min, "max": limits.max}
        return {"num_workers": workers, "worker_range": worker_range, "workers_wanted": self._wanted()}

    def _tell_resized(self, workers: int) -> None:
        """Write down that an elastic job goes on with another number of workers than before."""
        before = self._directory.read_state().get("num_workers")
        if is_elastic(self._spec) and before not in (None, workers):
            fields = {"from": before, "to": workers, "why": self._why_resized, "step": self._last_step()}
            self._directory.event("resized", fields)

    def _has_made_room(self, result: Ended | Failure) -> bool:
        """Whether the attempt ended for another job, which needs the place, or to be followed by a larger one."""
        is_stopped = isinstance(result, Ended) and result.outcome == "stopped"
        return is_stopped and self._directory.preempt_file.exists() and not self._stop_requested

    def _last_step(self) -> int | None:
        """Optimizer steps taken, by the slowest trial of a sweep; None for a script, whose steps are not counted."""
        if self._has_script:
            return None
        if self._trials.directories:
            return self._trials.last_step(int(self._directory.read_state().get("attempts", 0)))
        return last_step(self._directory)

    def _update_state(self, **fields: Any) -> dict[str, Any]:
        """Merge fields into the job's state, and carry what its trials share with it to theirs."""
        state = super()._update_state(**fields)
        self._trials.follow(state.get("phase", "queued"), int(state.get("attempts", 0)))
        return state

    def _end_well(self, result: Ended) -> int:
        if result.outcome == "stopped":
            return self._end_stopped(result.message)
        return self._end("succeeded", None, result.message, SUCCESS)

    def _end_stopped(self, message: str) -> int:
        request = self._directory.stop_request()
        message = f"{request['message']}; {message}" if request else message
        return self._end("stopped", request.get("reason", "stop_requested"), message, STOPPED)

    def _end(self, phase: str, reason: str | None, message: str, exit_code: int) -> int:
        self._update_state(
            phase=phase,
            reason=reason,
            message=message,
            step=self._last_step(),
            exit_code=exit_code,
            finished_at=time.time(),
        )
        self._directory.event(phase, {"reason": reason, "message": message})
        self._directory.stop_file.unlink(missing_ok=True)
        self._directory.preempt_file.unlink(missing_ok=True)
        return exit_code


def _of_lost_nodes(failure: Failure, nodes: Collection[str]) -> Failure:
    """What a failure is where nodes are gone: their neighbors failed for them, and Ray hears of it later."""
    if not nodes or failure.cause == "diverged":
        return failure
    names = ", ".join(sorted(node[:6] for node in nodes))
    message = f"node {names} disappeared" if len(nodes) == 1 else f"nodes {names} disappeared"
    return Failure(cause="worker_lost", message=message, details=f"{failure.message}\n{failure.details}")


def _rollbacks(spec: AnyJobSpec) -> int:
    """How often the job may go back because its weights have diverged: not where it would do the same again."""
    if isinstance(spec, JobSpec) and isinstance(spec.exchange, Asynchronous):
        return spec.exchange.rollbacks
    return 0


def _attempt(
    directory: RunDirectory,
    number: int,
    spec: AnyJobSpec,
    env: dict[str, str],
    arguments: dict[str, Any],
    place: Sequence[Use] | None,
) -> Attempt:
    """The kind of attempt that the job's exchange asks for."""
    if isinstance(spec, JobSpec) and spec.exchange.topology == "served":
        return ServedAttempt(directory, number, spec, env, arguments, place)
    return GangAttempt(directory, number, spec, env, arguments, place)
