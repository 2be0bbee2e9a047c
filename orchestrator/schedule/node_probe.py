"""What every node of a cluster has and sees: `python -m orchestrator.schedule.node_probe FOLDER FILE`, as a Ray job.

Prints one line: FILE and then a JSON list of mappings, one for each live node, in the order of their ids.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import shutil
import socket
import sys
import tempfile
import time
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

_TIMEOUT_S = 90.0
"""A node may have to start a process first."""


def look(folder: str, file: str) -> dict[str, Any]:
    """The facts of the node that this runs on.

    Args:
        folder: the storage.
        file: name of a file in it that somebody elsewhere has just written.
    """
    root = Path(folder)
    shared_memory = Path("/dev/shm")
    return {
        "host": socket.gethostname(),
        "python": platform.python_version(),
        "ray": ray.__version__,
        "orchestrator": _installed_version(),
        "sees_storage": root.is_dir(),
        "sees_file": (root / file).is_file(),
        "cannot_write": _why_not_writable(root),
        "free_bytes": shutil.disk_usage(root).free if root.is_dir() else None,
        "shm_bytes": shutil.disk_usage(shared_memory).total if shared_memory.is_dir() else None,
        "open_files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        "gpus": len(list(Path("/dev").glob("nvidia[0-9]*"))),
        "has_nvml": find_spec("pynvml") is not None,
        "clock": time.time(),
    }


def _installed_version() -> str | None:
    try:
        return metadata.version("large-batch-orchestrator")
    except metadata.PackageNotFoundError:
        return None


def _why_not_writable(root: Path) -> str | None:
    try:
        with tempfile.TemporaryFile(dir=root):
            return None
    except OSError as error:
        return error.strerror or type(error).__name__


def probe(folder: str, file: str) -> list[dict[str, Any]]:
    """The facts of all live nodes, with ``clock_ahead_s`` against the head and how uncertain that is.

    A node that does not answer in time has ``error`` in place of facts.
    """
    nodes = sorted((node["NodeID"], node["NodeManagerAddress"]) for node in ray.nodes() if node["Alive"])
    task = ray.remote(look)
    on_nodes = [
        task.options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))
        for node, _ in nodes
    ]
    first = [asked.remote(folder, file) for asked in on_nodes]
    done = set(ray.wait(first, num_returns=len(first), timeout=_TIMEOUT_S)[0])
    facts = []
    for (node, address), asked, answer in zip(nodes, on_nodes, first, strict=True):
        where = {"node_id": node, "address": address}
        if answer not in done:
            facts.append({**where, "error": f"does not answer within {_TIMEOUT_S:g} s"})
            continue
        try:
            # The second time a process is there, and the answer tells the time closely.
            sent = time.time()
            found = ray.get(asked.remote(folder, file), timeout=_TIMEOUT_S)
            received = time.time()
        except Exception as error:
            facts.append({**where, "error": f"{type(error).__name__}: {str(error).strip().splitlines()[-1]}"})
            continue
        ahead = found.pop("clock") - (sent + received) / 2
        facts.append({**where, **found, "clock_ahead_s": ahead, "clock_uncertain_s": (received - sent) / 2})
    return facts


def main(arguments: list[str]) -> int:
    """Ask all nodes of the cluster that this process runs in."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(address="auto", log_to_driver=False)
    folder, file = arguments
    print(file, json.dumps(probe(folder, file)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
