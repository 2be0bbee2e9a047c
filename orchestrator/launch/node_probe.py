"""Asks every node of a cluster what it has and sees, by a short Ray job."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orchestrator.core.errors import OutOfReachError
from orchestrator.launch.ray_entrypoint import module_entrypoint
from orchestrator.launch.ray_jobs import RayJobs

PROBE_MODULE = "orchestrator.schedule.node_probe"
TIMEOUT_S = 240.0


def probe_nodes(cluster: RayJobs, storage: Path) -> list[dict[str, Any]]:
    """The facts of each live node, see ``schedule.node_probe``. Takes some seconds.

    Args:
        cluster: that is asked.
        storage: an existing folder, in which a file is for the time that the nodes look for it.

    Raises:
        OutOfReachError: if the cluster does not answer or the job fails, with its last line.
        OSError: if the file cannot be written.
    """
    with _a_file_in(storage) as name:
        text = cluster.run_command(module_entrypoint(PROBE_MODULE, str(storage), name), "doctor", TIMEOUT_S)
    line = next((line for line in text.splitlines() if line.startswith(name)), None)
    if line is None:
        raise OutOfReachError(f"{cluster.address}: the job that asks the nodes printed no facts.")
    facts: list[dict[str, Any]] = json.loads(line.removeprefix(name))
    return facts


@contextmanager
def _a_file_in(folder: Path) -> Iterator[str]:
    name = f".doctor-{uuid.uuid4().hex}"
    (folder / name).touch()
    try:
        yield name
    finally:
        (folder / name).unlink(missing_ok=True)
