"""The driver of a sweep whose trials have workers of their own: it starts a driver for each, some at a time.

Each trial is a job with a run directory below that of the sweep. Its driver places it, restarts it and ends it as that
of any job; on a cluster it waits in the shared queue. This one only decides which trials run, and which are stopped
because others are ahead, and writes down what has become of them. Whatever ends it, the trials' directories tell the
next one how to go on.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from orchestrator.core.errors import JOB_FAILED, STOPPED, SUCCESS, OrchestratorError
from orchestrator.core.run_directory import PRUNED, TERMINAL_PHASES, RunDirectory
from orchestrator.core.values import Failure, Retry
from orchestrator.schedule.cluster import all_resources, connect, cpus_of, fits_beside, gcs_address
from orchestrator.schedule.history import JobHistory
from orchestrator.schedule.job_runs import PARENT_RUN
from orchestrator.schedule.lifecycle import Driver
from orchestrator.schedule.policy import RetryPolicy
from orchestrator.schedule.sweep_summary import failures_of, is_over, summary_of
from orchestrator.schedule.trial_driver import TrialDriver, environment_of_trials
from orchestrator.spec.check_sweep import described
from orchestrator.spec.job import AnyJobSpec
from orchestrator.spec.sweep import assignments_of, trials_of
from orchestrator.tracking.run import finish_run

if TYPE_CHECKING:
    from orchestrator.schedule.early_stopping import Judge

_POLL_S = 0.2
_JUDGE_EVERY_S = 1.0
_NOTE_EVERY_S = 1.0
_SIGN_OF_LIFE_EVERY_S = 30.0
"""A sweep on a cluster out of reach counts as lost when its state has not changed for minutes."""


class SweepDriver(Driver):
    """Runs the trials of one sweep to their ends.

    Args:
        directory: of the sweep, prepared by ``launch``.
        spec: the sweep.
        embedded: start a private Ray for all trials instead of letting each attach to the one around.
    """

    def __init__(self, directory: RunDirectory, spec: AnyJobSpec, *, embedded: bool) -> None:
        super().__init__(directory, spec)
        self._specs = trials_of(spec)
        self._assignments = assignments_of(spec)
        # Without their job: a trial is stopped by a file of its own.
        self._trials = [RunDirectory(trial.root) for trial in directory.trials]
        self._waiting = [number for number, trial in enumerate(self._trials) if not is_over(trial.read_state())]
        self._running: dict[int, TrialDriver] = {}
        self._embedded = embedded
        self._node: Mapping[str, float] = {}
        self._environ: Mapping[str, str] = {}
        self._is_passed_on = False
        self._told: tuple[str, str] = ("", "")
        self._told_at = self._judged_at = self._noted_at = float("-inf")
        self._judge = _judge_of(spec, self._trials)
        self._pruned: set[int] = set()

    def _connect(self) -> None:
        """Start the private Ray, large enough for the largest trials that may run together; a cluster is there."""
        address = None
        if self._embedded:
            largest = sorted(self._specs, key=cpus_of)[-self._spec.trials.concurrent :]
            self._directory.event("connected", connect(*largest, embedded=True))
            address, self._node = gcs_address(), all_resources()
        self._environ = environment_of_trials(address)

    def _drive(self, history: JobHistory) -> int:
        self._update_state(attempts=int(self._directory.read_state().get("attempts", 0)) + 1)
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
            if self._judge is not None and number in self._verdicts():
                self._end_trial(number, history, "stopped", PRUNED, self._judge.verdicts[number])
                self._tell_end(number)
                continue
            self._start(number, history)

    def _start(self, number: int, history: JobHistory) -> None:
        trial = self._trials[number]
        trial.update_state(**{PARENT_RUN: history.run_id})
        self._running[number] = TrialDriver(trial, has_room=self._embedded, environ=self._environ)
        self._directory.event("trial_started", {"trial": number, "sets": described(self._assignments[number])})

    def _has_room_for(self, number: int) -> bool:
        """Whether a trial fits a private node beside those that run; a shared cluster's queue sees to that itself.

        One that does not fit the empty node is started all the same: its driver says what it waits for.
        """
        if not self._embedded or not self._running:
            return True
        return fits_beside(self._specs[number], [self._specs[other] for other in self._running], self._node)

    def _collect(self, history: JobHistory) -> None:
        """Take note of the drivers that have ended, and speak for those that could not."""
        for number, driver in list(self._running.items()):
            if not driver.has_ended:
                continue
            del self._running[number]
            self._trials[number].stop_file.unlink(missing_ok=True)
            is_closed = self._trials[number].read_state()["phase"] in TERMINAL_PHASES
            if is_closed or not self._goes_on_without(driver, number, history):
                self._tell_end(number)

    def _goes_on_without(self, driver: TrialDriver, number: int, history: JobHistory) -> bool:
        """Start a trial again whose driver has vanished, or say its last words; whether it goes on."""
        self._check_record()  # whoever has taken the sweep over has taken its trials over too
        message = f"its driver {driver.ending} and without a last word"
        if self._judge is not None and number in self._pruned:
            self._end_trial(number, history, "stopped", PRUNED, self._judge.verdicts[number])
            return False
        if self._stop_requested:
            self._end_trial(number, history, "stopped", "driver_lost", message)
            return False
        trial, failure = self._trials[number], Failure(cause="infrastructure", message=message)
        policy = RetryPolicy(self._specs[number].retries, trial.read_state().get("retries_used"))
        decision = policy.decide(failure)
        fields = {"cause": failure.cause, "rank": None, "message": message, "budget": policy.account(failure)}
        if not isinstance(decision, Retry):
            trial.event("gave_up", fields)
            self._end_trial(number, history, "failed", "driver_lost", message)
            return False
        trial.event("restarting", fields)
        trial.update_state(phase="queued", message=message, driver=None, retries_used=dict(policy.used))
        self._start(number, history)
        return True

    def _end_trial(self, number: int, history: JobHistory, phase: str, reason: str, message: str) -> None:
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

    def _break_off(self, history: JobHistory, phase: str, reason: str, message: str, exit_code: int) -> int:
        for number, driver in self._running.items():
            driver.kill()
            if self._trials[number].read_state()["phase"] not in TERMINAL_PHASES:
                self._end_trial(number, history, phase, "aborted", message)
            self._tell_end(number)
        self._running.clear()
        return self._end(phase, reason, message, exit_code)

    def _close(self) -> None:
        """Nothing is held but by the trials."""

    def _note(self) -> None:
        """Keep the state true: what the trials are doing, and now and then that the driver lives."""
        if time.monotonic() - self._noted_at < _NOTE_EVERY_S:
            return
        self._noted_at = time.monotonic()
        self._check_record()
        states = [trial.read_state() for trial in self._trials]
        phases = [state["phase"] for number, state in enumerate(states) if number in self._running]
        # Once trials have trained, that the next one still starts says nothing about the sweep.
        has_begun = "running" in (self._told[0], *phases) or any(map(is_over, states))
        told = ("running" if has_begun else next(iter(phases), "preparing"), summary_of(states, len(self._running)))
        if told != self._told or time.monotonic() - self._told_at > _SIGN_OF_LIFE_EVERY_S:
            self._told, self._told_at = told, time.monotonic()
            self._update_state(phase=told[0], message=told[1])

    def _conclude(self) -> int:
        states = [trial.read_state() for trial in self._trials]
        if not all(map(is_over, states)):
            return self._end("stopped", "stop_requested", summary_of(states, 0), STOPPED)
        if (failures := failures_of(states, self._assignments)) is not None:
            return self._end("failed", "trials_failed", failures, JOB_FAILED)
        return self._end("succeeded", None, summary_of(states, 0), SUCCESS)

    def _end(self, phase: str, reason: str | None, message: str, exit_code: int) -> int:
        self._check_record()
        now = time.time()
        fields = {"reason": reason, "message": message, "exit_code": exit_code, "finished_at": now}
        for number in self._waiting:
            self._trials[number].update_state(phase="stopped", reason="not_started", message="", finished_at=now)
        self._update_state(phase=phase, **fields)
        self._directory.event(phase, {"reason": reason, "message": message})
        self._directory.stop_file.unlink(missing_ok=True)
        return exit_code


def _judge_of(spec: AnyJobSpec, trials: Sequence[RunDirectory]) -> Judge | None:
    """Who compares the trials; None where all may finish."""
    if spec.trials.early_stopping is None:
        return None
    # It takes a second to import what only these sweeps need.
    from orchestrator.schedule.early_stopping import Judge

    return Judge(spec.trials.early_stopping, trials)
