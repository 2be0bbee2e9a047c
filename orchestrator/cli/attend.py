"""Staying with a job until it ends: shows what is new, passes on Ctrl-C, and tells the result."""

from __future__ import annotations

import time
from collections.abc import Callable

from orchestrator.cli.follow import Follower
from orchestrator.cli.interrupts import INTERRUPTED, Interrupts
from orchestrator.cli.notices import Notice
from orchestrator.cli.output import emit, tell
from orchestrator.cli.report import Report, open_report
from orchestrator.cli.result import emit_result, exit_code_of
from orchestrator.cli.watch import Watch
from orchestrator.launch.local import LocalDriver, start_local
from orchestrator.launch.prepare import PreparedJob
from orchestrator.spec.job import ScriptJobSpec

POLL_S = 0.2
STOPPING = "stopping after this step, saving a checkpoint (Ctrl-C again to abort without one)"
STOPPING_SCRIPT = "stopping: the script gets SIGTERM and some time (Ctrl-C again to abort)"


def attend_local(prepared: PreparedJob) -> int:
    """Run a prepared job as a child of this process until it ends; returns its exit code."""
    run = prepared.run_directory
    emit(f"job {run.name} in {run.root}")
    follower = Follower(run, skip_existing=prepared.resumed)
    with Interrupts() as interrupts, start_local(prepared) as driver, open_report() as report:
        stopping = STOPPING_SCRIPT if isinstance(prepared.spec, ScriptJobSpec) else STOPPING
        companion = _Companion(follower, interrupts, driver, report, stopping)
        follow(follower, report, lambda: driver.poll() is not None, companion.between_looks)
        exit_code = driver.wait()
    emit_result(run)
    return exit_code


def attend_remote(prepared: PreparedJob) -> int:
    """Follow a submitted job until it ends; returns its exit code. Ctrl-C ends the following, not the job."""
    run = prepared.run_directory
    follower = Follower(run, skip_existing=prepared.resumed)
    watch = Watch(run)
    with Interrupts() as interrupts, open_report() as report:
        follow(follower, report, lambda: bool(interrupts.count) or watch.has_ended(), lambda: None)
    if interrupts.count and not follower.is_finished:
        tell(f"{run.name} goes on; `orchestrator status {run.name}` shows it, `orchestrator stop {run.name}` ends it.")
        return INTERRUPTED
    emit_result(run)
    return exit_code_of(run.read_state())


def follow(follower: Follower, report: Report, is_over: Callable[[], bool], between: Callable[[], None]) -> None:
    """Show what is new every ``POLL_S`` seconds until ``is_over`` was true before a look."""
    while True:
        over = is_over()
        for update in follower.poll():
            report.show(update)
        if over:
            return
        between()
        time.sleep(POLL_S)


class _Companion:
    """Stands between the user and the driver: passes interrupts on, and says why a job that has ended lingers.

    The first interrupt stops with a checkpoint, the second aborts, the third kills.
    """

    def __init__(
        self, follower: Follower, interrupts: Interrupts, driver: LocalDriver, report: Report, stopping: str
    ) -> None:
        self._follower = follower
        self._interrupts = interrupts
        self._driver = driver
        self._report = report
        self._stopping = stopping
        self._num_told = 0
        self._num_passed = 0
        self._told_closing = False

    def between_looks(self) -> None:
        """Called between two looks at the run directory."""
        wanted = self._interrupts.count
        if wanted > self._num_told:
            self._report.show(Notice(self._stopping if wanted == 1 else "aborting", "warning"))
            self._num_told = wanted
        # Until it has recorded itself a driver has no ear for signals, and would die of one.
        is_listening = self._follower.state.get("driver") is not None
        if wanted > 2 or (wanted == 2 and not is_listening):
            self._driver.kill()
        elif wanted > self._num_passed and is_listening:
            self._driver.interrupt()
            self._num_passed += 1
        has_run = self._follower.state.get("mlflow_run_id") is not None
        if has_run and self._follower.is_finished and not self._told_closing:
            self._report.show(Notice("closing the MLflow run"))
            self._told_closing = True
