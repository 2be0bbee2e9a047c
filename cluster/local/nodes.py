"""A Ray cluster of several nodes on this machine, to try out what needs more than one: `python cluster/local/nodes.py`.

Every node has ports and a folder of its own, so it disturbs no other Ray here; with `--namespaces`, which needs root,
an address of its own too. It prints how to hand it jobs. Ctrl-C, SIGTERM and the end of any of its nodes end all of
them. `orchestrator cluster up` starts the same in the background, without namespaces.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import time
from types import FrameType

from orchestrator.core.errors import OrchestratorError
from orchestrator.launch.local_nodes import LocalCluster
from orchestrator.launch.namespaces import Namespaces


def main() -> int:
    """Keep a cluster up until somebody ends it; returns the exit code."""
    parser = argparse.ArgumentParser(description="A Ray cluster of several nodes on this machine.")
    parser.add_argument("--nodes", type=int, default=2, help="nodes besides the head (default 2)")
    parser.add_argument("--cpus-per-node", type=int, default=1, help="CPUs that each of them offers (default 1)")
    parser.add_argument("--head-cpus", type=int, default=0, help="CPUs that the head offers to workers (default 0)")
    parser.add_argument("--namespaces", action="store_true", help="each with an address of its own; needs root")
    given = parser.parse_args()
    for option in ("nodes", "cpus_per_node", "head_cpus"):
        least = 1 if option == "cpus_per_node" else 0
        if getattr(given, option) < least:
            parser.error(f"--{option.replace('_', '-')} is {getattr(given, option)}; it must be at least {least}")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    cpus = {"cpus_per_node": given.cpus_per_node, "head_cpus": given.head_cpus}
    try:
        with contextlib.ExitStack() as stack:
            namespaces = stack.enter_context(Namespaces(1 + given.nodes)) if given.namespaces else None
            cluster = stack.enter_context(LocalCluster(num_nodes=given.nodes, namespaces=namespaces, **cpus))
            print("export", *(f"{name}={value}" for name, value in cluster.record.environment.items()))
            print("Then `orchestrator submit job.yaml --storage FOLDER --follow` in another shell. Ctrl-C ends this.")
            sys.stdout.flush()
            while True:
                cluster.check()
                time.sleep(1)
    except KeyboardInterrupt:
        return 0
    except OrchestratorError as error:
        print(error, file=sys.stderr)
        return 1


def _interrupt(number: int, frame: FrameType | None) -> None:
    # A second one must not end the ending of the nodes.
    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
