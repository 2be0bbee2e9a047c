"""A driver that trains nothing, but leaves in the run directory what the real one does.

STANDIN is one of: train (six steps, one evaluation, of each trial), fail (rank 1 raises at step 2), die (SIGKILL, no
last word), wait (until SIGINT or the stop file), stubborn (until a second SIGINT), deaf (never records itself), slow
(as wait, but records itself late).
"""

import json
import os
import signal
import sys
import time

from orchestrator.core.run_directory import RunDirectory
from orchestrator.launch.processes import this_process

TOTAL_STEPS = 6


def log_step(run: RunDirectory, step: int, **extra: float) -> None:
    line = {"step": step, "samples": 8 * step, "loss": 1 / step, "lr": 0.01, "global_size": 8, "samples_per_s": 400.0}
    with run.metrics_file.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps({**line, **extra}) + "\n")


def end(run: RunDirectory, phase: str, reason: str | None, message: str, exit_code: int) -> int:
    fields = {"phase": phase, "reason": reason, "message": message, "exit_code": exit_code}
    run.update_state(**fields, step=TOTAL_STEPS, finished_at=time.time())
    run.event(phase, {"reason": reason, "message": message})
    return exit_code


def begin(run: RunDirectory) -> None:
    run.update_state(phase="preparing", driver=this_process(), started_at=time.time())
    run.update_state(phase="placing", attempts=run.read_state()["attempts"] + 1)
    resumed = run.metrics_file.exists()
    fields = {"step": 2 if resumed else 0, "workers": 2, "total_steps": TOTAL_STEPS, "total_samples": 8 * TOTAL_STEPS}
    for training in run.trials or [run]:
        training.event("resumed" if resumed else "started", fields)
    run.update_state(phase="running")
    log = run.rank_log(run.read_state()["attempts"], 1)
    log.parent.mkdir(parents=True)
    log.write_text("rank 1 says hello\nValueError: no such thing\n")


def train(run: RunDirectory) -> int:
    trainings = run.trials or [run]
    for step in range(1, TOTAL_STEPS + 1):
        for training in trainings:
            log_step(training, step, **({"eval/accuracy": 0.5} if step == TOTAL_STEPS else {}))
            if step == 3:
                training.event("checkpoint_saved", {"step": 3, "path": "somewhere"})
        time.sleep(0.1)
    for training in trainings:
        training.model_file.write_bytes(b"")
    for trial in run.trials:
        trial.update_state(phase="succeeded", step=TOTAL_STEPS)
    return end(run, "succeeded", None, f"finished {TOTAL_STEPS} steps", 0)


def fail(run: RunDirectory) -> int:
    log_step(run, 1)
    message = "Tiny.loss raised ValueError at recipe.py:14 (return 1): no such thing"
    fields = {"cause": "user_error", "rank": 1, "message": message, "budget": "retries.user_error 0 of 0"}
    run.event("gave_up", fields)
    return end(run, "failed", "user_error", message, 1)


def wait(run: RunDirectory, interrupts: list[int]) -> int:
    while not interrupts and not run.stop_file.exists():
        time.sleep(0.02)
    if os.environ["STANDIN"] == "wait":
        return end(run, "stopped", "stop_requested", "stopped at step 6, checkpoint written", 3)
    while len(interrupts) < 2:
        time.sleep(0.02)
    return end(run, "stopped", "aborted", "aborted by a second interrupt; no checkpoint was written", 3)


def main() -> int:
    run, behavior = RunDirectory(sys.argv[1]), os.environ["STANDIN"]
    if behavior in ("deaf", "slow"):
        time.sleep(600 if behavior == "deaf" else 1)
    interrupts: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: interrupts.append(number))
    print("the driver speaks", flush=True)
    begin(run)
    if behavior == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if behavior == "fail":
        return fail(run)
    return wait(run, interrupts) if behavior in ("wait", "stubborn", "slow") else train(run)


if __name__ == "__main__":
    sys.exit(main())
