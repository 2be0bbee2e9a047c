"""A trial's driver that trains nothing, but leaves in the run directory what the real one does.

``recipe.args.does`` of the trial is one of: train (three steps), bad (as train, but worse, until it is stopped), fail,
die (SIGKILL, no last word), die_once (train when it is started again), wait (until it is stopped, then train when it is
started again), bad_die and wait_die (SIGKILL when they are to stop).
"""

import json
import os
import signal
import sys
import time

from orchestrator.core.run_directory import RunDirectory
from orchestrator.launch.processes import this_process
from orchestrator.spec.load import load_recipe_job


def log(run: RunDirectory, step: int, loss: float) -> None:
    line = {"step": step, "time": time.time(), "samples": 10 * step, "loss": loss}
    with run.metrics_file.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(line) + "\n")


def end(run: RunDirectory, phase: str, reason: str | None, message: str) -> int:
    run.update_state(phase=phase, reason=reason, message=message, finished_at=time.time())
    run.event(phase, {"reason": reason, "message": message})
    run.stop_file.unlink(missing_ok=True)
    return 0


def stopped(run: RunDirectory) -> int:
    request = run.stop_request()
    return end(run, "stopped", request.get("reason", "stop_requested"), request.get("message", "stopped at step 3"))


def main() -> int:
    run = RunDirectory(sys.argv[1])
    does = load_recipe_job(run.resolved_spec).recipe.args["does"]
    lives = run.read_state()["attempts"] + 1
    run.update_state(phase="running", attempts=lives, driver=this_process(), started_at=time.time())
    print(does, sys.argv[2:], os.environ.get("RAY_ADDRESS"), flush=True)
    if does == "die" or (does == "die_once" and lives == 1):
        os.kill(os.getpid(), signal.SIGKILL)
    if does == "fail":
        return end(run, "failed", "user_error", "no such thing\nand more of it")
    for step in range(1, 4):
        log(run, step, loss=9.0 if does.startswith("bad") else 1.0)
        time.sleep(0.05)
    while does.startswith("bad") or (does.startswith("wait") and lives == 1):
        if run.stop_file.exists():
            if does.endswith("die"):
                os.kill(os.getpid(), signal.SIGKILL)
            return stopped(run)
        time.sleep(0.02)
    run.model_file.touch()
    return end(run, "succeeded", None, "finished 3 steps")


if __name__ == "__main__":
    sys.exit(main())
