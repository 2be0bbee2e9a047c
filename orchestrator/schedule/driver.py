"""The job's driver: a state machine from a prepared run directory to a finished, failed or stopped job.

    preparing --> queued --> placing --> running --> succeeded
                    ^  |                    |------> stopped     (SIGINT or a stop file: checkpoint first, or SIGTERM
                    |  +--> time out        |                     to a script)
                    |                       |------> failed      (budget of the cause is empty)
                    +-----------------------+                    (another attempt, or a more urgent job needs the place)

The same code runs under ``orchestrator run`` (embedded Ray) and as the entrypoint of a Ray job. A private cluster has
no queue: there a job goes from preparing to placing.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

from orchestrator.core.environment import own_environment
from orchestrator.core.errors import JOB_FAILED, STOPPED, SUCCESS, TIMED_OUT, OrchestratorError
from orchestrator.core.run_directory import RunDirectory
from orchestrator.core.values import Failure, Retry
from orchestrator.schedule.attempt import Attempt, Ended, GangAttempt
from orchestrator.schedule.cluster import connect
from orchestrator.schedule.history import JobHistory
from orchestrator.schedule.place import OwnPlace, Place, QueuedPlace
from orchestrator.schedule.policy import RetryPolicy
from orchestrator.schedule.queue.values import Use
from orchestrator.schedule.served_attempt import ServedAttempt
from orchestrator.schedule.sweep_driver import SweepDriver
from orchestrator.schedule.trial_states import TrialStates, last_step
from orchestrator.schedule.wait_record import WaitRecord
from orchestrator.spec.job import AnyJobSpec, JobSpec, ScriptJobSpec
from orchestrator.spec.load import load_resolved
from orchestrator.spec.methods.asynchronous import Asynchronous
from orchestrator.spec.sweep import has_separate_trials

_POLL_S = 0.2
_STATE_EVERY_S = 2.0


class PlacementTimeoutError(OrchestratorError):
    """The workers could not be placed within ``queue.timeout_s``."""

    exit_code = TIMED_OUT


class JobDriver:
    """Runs one job to its end.

    Args:
        directory: prepared by ``launch``.
        embedded: start a private Ray instead of attaching to the one around.
        has_room: the Ray around is that of a sweep, which starts no more trials than fit: there is no queue.
    """

    def __init__(self, directory: RunDirectory, *, embedded: bool, has_room: bool = False) -> None:
        self._directory = directory
        self._trials = TrialStates(directory.trials)
        self._embedded = embedded
        self._spec: AnyJobSpec = load_resolved(directory.resolved_spec)
        self._has_script = isinstance(self._spec, ScriptJobSpec)
        used = directory.read_state().get("retries_used")
        self._policy = RetryPolicy(self._spec.retries, used, rollbacks=_rollbacks(self._spec))
        self._num_interrupts = 0
        is_alone = embedded or has_room
        self._place: Place = OwnPlace(self._spec) if is_alone else QueuedPlace(self._spec, directory)

    def interrupt(self, signum: int, frame: FrameType | None) -> None:
        """Signal handler: the first asks the ranks to stop at the next step, the second aborts."""
        self._num_interrupts += 1
        if self._num_interrupts > 1:
            raise KeyboardInterrupt
        self._directory.stop_file.touch()

    def run(self) -> int:
        """Drive the job to its end; returns the exit code."""
        signal.signal(signal.SIGINT, self.interrupt)
        process = psutil.Process()
        driver = {"host": socket.gethostname(), "pid": process.pid, "started": process.create_time()}
        self._update_state(phase="preparing", reason=None, message=None, driver=driver, started_at=time.time())
        history = JobHistory(self._spec, self._directory)
        try:
            history.open_in_background()
            self._directory.event("connected", connect(self._spec, embedded=self._embedded))
            history.wait_until_open()
            exit_code = self._attempts(history)
        except KeyboardInterrupt:
            message = "aborted by a second interrupt" + ("" if self._has_script else "; no checkpoint was written")
            exit_code = self._end("stopped", "aborted", message, STOPPED)
        except OrchestratorError as error:
            traceback.print_exc()  # for the log; people get the sentence
            reason = "timed_out" if error.exit_code == TIMED_OUT else "could_not_start"
            exit_code = self._end("failed", reason, str(error), error.exit_code)
        except Exception as error:
            traceback.print_exc()
            exit_code = self._end("failed", "internal_error", f"{type(error).__name__}: {error}", JOB_FAILED)
        self._place.close()
        history.close()
        return exit_code

    def _attempts(self, history: JobHistory) -> int:
        while True:
            self._wait_for_place()
            if self._stop_requested:
                return self._end_stopped("stopped before it was placed")
            result = self._one_attempt(history)
            if self._has_script and self._stop_requested:
                # SIGTERM reaches the ranks one after another, and each ends in its own way, or fails for a neighbor.
                return self._end_stopped(result.message)
            if self._has_made_room(result):
                self._place.give_back()
                continue
            if isinstance(result, Ended):
                return self._end_well(result)
            decision = self._policy.decide(result)
            self._update_state(retries_used=dict(self._policy.used))
            fields = {"cause": result.cause, "rank": result.rank, "message": result.message}
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
        self._update_state(attempts=number, phase="placing", reason=None, message=None)
        arguments = {
            "run_directory": str(self._directory.root),
            "attempt": number,
            "tracking_uri": history.uri,
            "mlflow_run_id": history.run_id,
        }
        env = own_environment(self._spec, os.environ)
        attempt = _attempt(self._directory, number, self._spec, env, arguments, self._place.uses)
        attempt.start()
        phase, updated = "placing", 0.0
        while (result := attempt.wait(_POLL_S)) is None:
            if phase == "placing" and attempt.has_workers:
                phase, updated = "running", 0.0
                script = {"script": self._spec.script.path} if isinstance(self._spec, ScriptJobSpec) else {}
                placed = {"attempt": number, "workers": self._spec.resources.workers, **script}
                self._directory.event("placed", placed)
            if time.monotonic() - updated > _STATE_EVERY_S:
                updated = time.monotonic()
                self._update_state(phase=phase, step=self._last_step())
            self._make_room_if_needed()
        return result

    def _make_room_if_needed(self) -> None:
        """Have the ranks stop with a checkpoint if a more urgent job needs their place."""
        urgent = self._place.is_needed_by()
        if urgent is not None and not self._directory.preempt_file.exists():
            self._directory.event("preempted", {"by": urgent, "step": self._last_step()})
            self._directory.preempt_file.touch()

    def _has_made_room(self, result: Ended | Failure) -> bool:
        """Whether the attempt ended because another job needs the place, so that this one goes back to the queue."""
        is_stopped = isinstance(result, Ended) and result.outcome == "stopped"
        return is_stopped and self._directory.preempt_file.exists() and not self._stop_requested

    @property
    def _stop_requested(self) -> bool:
        return self._directory.stop_file.exists()

    def _last_step(self) -> int | None:
        """Optimizer steps taken, by the slowest trial of a sweep; None for a script, whose steps are not counted."""
        if self._has_script:
            return None
        if self._trials.directories:
            return self._trials.last_step(int(self._directory.read_state().get("attempts", 0)))
        return last_step(self._directory)

    def _update_state(self, **fields: Any) -> None:
        """Merge fields into the job's state, and carry what its trials share with it to theirs."""
        state = self._directory.update_state(**fields)
        self._trials.follow(state.get("phase", "queued"), int(state.get("attempts", 0)))

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


def _die_with_parent() -> None:
    """End this process, and with it its private cluster, when the process that started it is gone."""
    # The bare descriptor: a thread inside a buffered read keeps the interpreter from shutting down.
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGKILL)


def main(arguments: list[str] | None = None) -> int:
    """``python -m orchestrator.schedule.driver RUN_DIRECTORY [--embedded | --has-room] [--watch-parent]``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("run_directory", type=Path)
    parser.add_argument("--embedded", action="store_true", help="start a private Ray cluster")
    parser.add_argument("--has-room", action="store_true", help="attach to a sweep's private Ray, without a queue")
    parser.add_argument("--watch-parent", action="store_true", help="end when standard input is closed")
    options: Any = parser.parse_args(arguments)
    if options.watch_parent:
        threading.Thread(target=_die_with_parent, daemon=True).start()
    # Ray may clean up the folder that it unpacked this job into (two nodes on one host do); the run directory stays.
    directory = RunDirectory(options.run_directory.absolute())
    os.chdir(directory.code)
    spec = load_resolved(directory.resolved_spec)
    if isinstance(spec, JobSpec) and has_separate_trials(spec):
        return SweepDriver(directory, spec, embedded=options.embedded).run()
    return JobDriver(directory, embedded=options.embedded, has_room=options.has_room).run()


if __name__ == "__main__":
    sys.exit(main())
