"""A driver that trains nothing: keeps the driver's contract, or breaks it as STANDIN says.

STANDIN is one of: succeed, crash (exit 7 and no word), hang (ends only by SIGKILL), deaf (never records itself),
wait (until SIGINT or the stop file), chatter (1,000 lines, slowly, then success).
"""

import os
import signal
import sys
import threading
import time

from orchestrator.core.run_directory import RunDirectory
from orchestrator.launch.processes import this_process


def main() -> int:
    directory, behavior = RunDirectory(sys.argv[1]), os.environ.get("STANDIN", "succeed")
    if "--watch-parent" in sys.argv:
        threading.Thread(target=die_with_parent, daemon=True).start()
    interrupts: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: interrupts.append(number))
    print(f"behavior {behavior}, cwd {os.getcwd()}, STANDIN_NULL={os.environ.get('STANDIN_NULL')}")
    print("and an error line", file=sys.stderr)
    if behavior == "crash":
        return 7
    if behavior != "deaf":
        directory.update_state(phase="running", driver=this_process(), attempts=1)
    for number in range(1000 if behavior == "chatter" else 0):
        print(f"line {number} of many", flush=True)
        time.sleep(0.002)
    if behavior in ("succeed", "chatter"):
        directory.update_state(phase="succeeded", finished_at=time.time())
        return 0
    while behavior in ("hang", "deaf") or not (interrupts or directory.stop_file.exists()):
        time.sleep(0.02)
    print("stopping")
    directory.update_state(phase="stopped", reason="stop_requested", message="asked to", finished_at=time.time())
    return 3


def die_with_parent() -> None:
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
