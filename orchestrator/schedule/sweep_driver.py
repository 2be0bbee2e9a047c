"""The driver of a sweep whose trials have workers of their own: it starts a driver for each, some at a time.

Each trial is a job with a run directory below that of the sweep. Its driver places it, restarts it and ends it as that
of any job; on a cluster it waits in the shared queue. This one only decides which trials run, and which are stopped
because others are ahead, and writes down what has become of them. Whatever ends it, the trials' directories tell the
next one how to go on.
"""

from __future__ import annotations

import signal
import socket
import time
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any

import psutil

from orchestrator.core.errors import JOB_FAILED, STOPPED, SUCCESS, OrchestratorError
from orchestrator.core.run_directory import PRUNED, TERMINAL_PHASES, RunDirectory
from orchestrator.schedule.cluster import Fits, admit, all_resources, connect, cpus_of, gcs_address, shards_of
from orchestrator.schedule.history import JobHistory
from orchestrator.schedule.job_runs import PARENT_RUN
from orchestrator.schedule.mirroring import Mirroring
from orchestrator.schedule.trial_driver import TrialDriver, environment_of_trials
from orchestrator.spec.check_sweep import described
from orchestrator.spec.job import JobSpec
from orchestrator.spec.sweep import assignments_of, trials_of
from orchestrator.tracking.run import finish_run

if TYPE_CHECKING:
    from orchestrator.schedule.early_stopping import Judge

_POLL_S = 0.2
_JUDGE_EVERY_S = 1.0
_NOTE_EVERY_S = 1.0
_SIGN_OF_LIFE_EVERY_S = 30.0
"""A sweep on a cluster out of reach counts as lost when its state has not changed for minutes."""
_MAX_TOLD = 3
"""Failed trials that the sweep's message names."""


class SweepDriver:
    """Runs the trials of one sweep to their ends.

    Args:
        directory: of the sweep, prepared by ``launch``.
        spec: the sweep.
        embedded: start a private Ray for all trials instead of letting each attach to the one around.
    """

    def __init__(self, directory: RunDirectory, spec: JobSpec, *, embedded: bool) -> None:
        self._directory = directory
        self._spec = spec
        self._specs = trials_of(spec)
        self._assignments = assignments_of(spec)
        # Without their job: a trial is stopped by a file of its own.
        self._trials = [RunDirectory(trial.root) for trial in directory.trials]
        self._waiting = [number for number, trial in enumerate(self._trials) if _goes_on(trial)]
        self._running: dict[int, TrialDriver] = {}
        self._embedded = embedded
        self._node: Mapping[str, float] = {}
        self._environ: Mapping[str, str] = {}
        self._num_interrupts = 0
        self._is_passed_on = False
        self._told: tuple[str, str] = ("", "")
        self._told_at = self._judged_at = self._noted_at = float("-inf")
        self._judge = _judge_of(spec, self._trials)
        self._pruned: set[int] = set()

    def interrupt(self, signum: int, frame: FrameType | None) -> None:
        """Signal handler: the first asks all trials to stop at their next steps, the second aborts."""
        self._num_interrupts += 1
        if self._num_interrupts > 1:
            raise KeyboardInterrupt
        self._directory.stop_file.touch()

    def run(self, history: JobHistory) -> int:
        """Drive the sweep to its end, whose MLflow run is being opened; returns the exit code."""
        signal.signal(signal.SIGINT, self.interrupt)
        process = psutil.Process()
        driver = {"host": socket.gethostname(), "pid": process.pid, "started": process.create_time()}
        lives = int(self._directory.read_state().get("attempts", 0)) + 1
        fields = {"driver": driver, "attempts": lives, "started_at": time.time()}
        self._directory.update_state(phase="preparing", reason=None, message=None, **fields)
        mirroring = Mirroring(self._spec.mirror, self._directory)
        mirroring.start()
        try:
            self._connect()
            history.wait_until_open()
            exit_code = self._run_trials(history)
        except KeyboardInterrupt:
            self._abort(history, "stopped", "aborted by a second interrupt; no checkpoint was written")
            exit_code = self._end("stopped", "aborted", "aborted by a second interrupt", STOPPED)
        except OrchestratorError as error:
            traceback.print_exc()  # for the log; people get the sentence
            self._abort(history, "failed", str(error))
            exit_code = self._end("failed", "could_not_start", str(error), error.exit_code)
        except Exception as error:
            traceback.print_exc()
            message = f"{type(error).__name__}: {error}"
            self._abort(history, "failed", message)
            exit_code = self._end("failed", "internal_error", message, JOB_FAILED)
        history.close()
        mirroring.close()
        return exit_code

    def _connect(self) -> None:
        """Start the private Ray, large enough for the largest trials that may run together; a cluster is there."""
        address = None
        if self._embedded:
            largest = sorted(self._specs, key=cpus_of)[-self._spec.trials.concurrent :]
            self._directory.event("connected", connect(*largest, embedded=True))
            address, self._node = gcs_address(), all_resources()
        self._environ = environment_of_trials(address)

    def _run_trials(self, history: JobHistory) -> int:
        while True:
            self._collect(history)
            if self._stop_requested:
                self._pass_stop_on()
            else:
                self._start_trials(history)
            if not self._running and (self._stop_requested or not self._waiting):
                return self._conclude()
            self._stop_early()
            self._note()
            time.sleep(_POLL_S)

    def _start_trials(self, history: JobHistory) -> None:
        while self._waiting and len(self._running) < self._spec.trials.concurrent:
            number = self._waiting[0]
            if not self._has_room_for(number):
                return
            self._waiting.pop(0)
            trial = self._trials[number]
            if self._judge is not None and number in self._verdicts():
                self._close(number, history, "stopped", PRUNED, self._judge.verdicts[number])
                self._tell_end(number)
                continue
            trial.update_state(**{PARENT_RUN: history.run_id})
            self._running[number] = TrialDriver(trial, has_room=self._embedded, environ=self._environ)
            self._directory.event("trial_started", {"trial": number, "sets": described(self._assignments[number])})

    def _has_room_for(self, number: int) -> bool:
        """Whether a trial fits a private node beside those that run; a shared cluster's queue sees to that itself.

        One that does not fit the empty node is started all the same: its driver says what it waits for.
        """
        if not self._embedded or not self._running:
            return True
        free = dict(self._node)
        for other in self._running:
            resources, shards = self._specs[other].resources, shards_of(self._specs[other])
            free["CPU"] -= resources.num_workers * resources.cpus_per_worker + shards.count * shards.cpus_each
            free["GPU"] = free.get("GPU", 0.0) - resources.num_workers * resources.gpus_per_worker
        spec = self._specs[number]
        return isinstance(admit(spec.resources, [free], shards_of(spec)), Fits)

    def _collect(self, history: JobHistory) -> None:
        """Take note of the drivers that have ended, and speak for those that could not."""
        for number, driver in list(self._running.items()):
            if not driver.has_ended:
                continue
            del self._running[number]
            self._trials[number].stop_file.unlink(missing_ok=True)
            if self._trials[number].read_state()["phase"] not in TERMINAL_PHASES:
                phase = "stopped" if self._stop_requested else "failed"
                message = f"its driver {driver.ending} and without a last word"
                self._close(number, history, phase, "driver_lost", message)
            self._tell_end(number)

    def _close(self, number: int, history: JobHistory, phase: str, reason: str, message: str) -> None:
        """Write the last words of a trial that has no driver, and end its MLflow run."""
        trial = self._trials[number]
        state = trial.update_state(phase=phase, reason=reason, message=message, finished_at=time.time())
        trial.event(phase, {"reason": reason, "message": message})
        trial.stop_file.unlink(missing_ok=True)
        if state.get("mlflow_run_id"):
            try:
                finish_run(history.uri, state["mlflow_run_id"], phase, state["finished_at"])
            except OrchestratorError as error:
                trial.event("tracking_out_of_reach", {"message": str(error)})

    def _tell_end(self, number: int) -> None:
        state = self._trials[number].read_state()
        fields = {name: state.get(name) for name in ("phase", "reason", "message", "step")}
        self._directory.event("trial_ended", {"trial": number, **fields})

    def _stop_early(self) -> None:
        """Ask those to stop that the rule has decided against."""
        if self._judge is None or time.monotonic() - self._judged_at < _JUDGE_EVERY_S:
            return
        self._judged_at = time.monotonic()
        for number, message in self._verdicts().items():
            trial = self._trials[number]
            is_going = number in self._running and trial.read_state()["phase"] not in TERMINAL_PHASES
            if is_going and number not in self._pruned and not trial.stop_file.exists():
                self._pruned.add(number)
                self._directory.event("pruned", {"trial": number, "message": message})
                trial.ask_to_stop(PRUNED, message)

    def _verdicts(self) -> Mapping[int, str]:
        assert self._judge is not None
        self._judge.look()
        return self._judge.verdicts

    def _pass_stop_on(self) -> None:
        if not self._is_passed_on:
            self._is_passed_on = True
            for driver in self._running.values():
                driver.ask_to_stop()

    def _abort(self, history: JobHistory, phase: str, message: str) -> None:
        """End all drivers at once."""
        for number, driver in self._running.items():
            driver.kill()
            if self._trials[number].read_state()["phase"] not in TERMINAL_PHASES:
                self._close(number, history, phase, "aborted", message)
            self._tell_end(number)
        self._running.clear()

    @property
    def _stop_requested(self) -> bool:
        return self._directory.stop_file.exists()

    def _note(self) -> None:
        """Keep the state true: what the trials are doing, and now and then that the driver lives."""
        if time.monotonic() - self._noted_at < _NOTE_EVERY_S:
            return
        self._noted_at = time.monotonic()
        states = [trial.read_state() for trial in self._trials]
        phases = [state["phase"] for number, state in enumerate(states) if number in self._running]
        # Once trials have trained, that the next one still starts says nothing about the sweep.
        has_begun = "running" in (self._told[0], *phases) or any(map(_is_over, states))
        told = ("running" if has_begun else next(iter(phases), "preparing"), summary_of(states, len(self._running)))
        if told != self._told or time.monotonic() - self._told_at > _SIGN_OF_LIFE_EVERY_S:
            self._told, self._told_at = told, time.monotonic()
            self._directory.update_state(phase=told[0], message=told[1])

    def _conclude(self) -> int:
        states = [trial.read_state() for trial in self._trials]
        failed = [number for number, state in enumerate(states) if state["phase"] == "failed"]
        summary = summary_of(states, 0)
        if not all(map(_is_over, states)):
            return self._end("stopped", "stop_requested", summary, STOPPED)
        if not failed:
            return self._end("succeeded", None, summary, SUCCESS)
        told = [
            f"trial {number} ({described(self._assignments[number])}): "
            + str(states[number].get("message") or states[number].get("reason")).partition("\n")[0]
            for number in failed[:_MAX_TOLD]
        ]
        more = [f"and {len(failed) - _MAX_TOLD} more"] if len(failed) > _MAX_TOLD else []
        message = f"{len(failed)} of {len(states)} trials failed: {'; '.join([*told, *more])}"
        return self._end("failed", "trials_failed", message, JOB_FAILED)

    def _end(self, phase: str, reason: str | None, message: str, exit_code: int) -> int:
        now = time.time()
        fields = {"reason": reason, "message": message, "exit_code": exit_code, "finished_at": now}
        for number in self._waiting:
            self._trials[number].update_state(phase="stopped", reason="not_started", message="", finished_at=now)
        self._directory.update_state(phase=phase, **fields)
        self._directory.event(phase, {"reason": reason, "message": message})
        self._directory.stop_file.unlink(missing_ok=True)
        return exit_code


def _judge_of(spec: JobSpec, trials: Sequence[RunDirectory]) -> Judge | None:
    """Who compares the trials; None where all may finish."""
    if spec.trials.early_stopping is None:
        return None
    # It takes a second to import what only these sweeps need.
    from orchestrator.schedule.early_stopping import Judge

    return Judge(spec.trials.early_stopping, trials)


def _goes_on(trial: RunDirectory) -> bool:
    """Whether a trial has not ended for good."""
    return not _is_over(trial.read_state())


def _is_over(state: Mapping[str, Any]) -> bool:
    """Whether there is nothing left of a trial to do, or nothing that could be done."""
    return state["phase"] in ("succeeded", "failed") or state.get("reason") == PRUNED


def summary_of(states: list[dict[str, Any]], num_running: int) -> str:
    """How far a sweep is, in words: ``5 of 8 trials ended (3 finished, 2 stopped early), 2 run``."""
    kinds = Counter(
        {"succeeded": "finished", "failed": "failed"}.get(state["phase"], "stopped early")
        for state in states
        if _is_over(state)
    )
    parts = [f"{kinds[kind]} {kind}" for kind in ("finished", "stopped early", "failed") if kinds[kind]]
    text = f"{sum(kinds.values())} of {len(states)} trials ended" + (f" ({', '.join(parts)})" if parts else "")
    return f"{text}, {num_running} running" if num_running else text
