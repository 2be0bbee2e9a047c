"""`orchestrator doctor --nodes`: what each node of a cluster says of itself, judged as this machine is."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.cli.diagnose import LITTLE_SPACE_BYTES, OK, OUT_OF_REACH, PROBLEM, WARNING, Finding
from orchestrator.cli.diagnose_cluster import judge_clock
from orchestrator.cli.diagnose_machine import judge_nvml, judge_open_files, judge_shared_memory
from orchestrator.cli.figures import counted, size
from orchestrator.core.errors import OutOfReachError

if TYPE_CHECKING:
    from orchestrator.launch.ray_jobs import RayJobs

NOT_SHARED = "mount one folder at the same path on every node (NFS, a cloud's file service, a volume) and name it here"


def node_findings(cluster: RayJobs, storage: Path) -> list[Finding]:
    """What is wrong with each node, or that nothing is."""
    from orchestrator.launch.node_probe import probe_nodes

    if not storage.is_dir():
        message = f"{storage} does not exist here, so the nodes cannot be asked for it"
        return [Finding("nodes", PROBLEM, message, f"mkdir -p {storage}, on the file system that the nodes share")]
    try:
        facts = probe_nodes(cluster, storage)
    except OutOfReachError as error:
        return [Finding("nodes", OUT_OF_REACH, str(error), "`orchestrator doctor` without --nodes tells the rest")]
    except OSError as error:
        mend = "choose another folder: --storage, ORCHESTRATOR_STORAGE or `storage:` in the spec"
        return [Finding("nodes", PROBLEM, f"{storage} cannot be written: {error.strerror}", mend)]
    return [finding for one in facts for finding in judge_node(one, storage)]


def judge_node(facts: Mapping[str, Any], storage: Path) -> list[Finding]:
    """Everything that is wrong with one node; one finding that all is well where nothing is.

    Args:
        facts: as ``schedule.node_probe`` has them.
        storage: that it was asked for.
    """
    check = f"node {facts['node_id'][:8]}"
    if "error" in facts:
        mend = f"look at {facts['address']}: ray logs, or end its raylet and join it again"
        return [Finding(check, PROBLEM, f"{facts['address']}: {facts['error']}", mend)]
    findings = [_storage(check, facts, storage), _space(check, facts, storage), *_installation(check, facts)]
    findings += [
        judge_clock(check, f"the clock of {facts['host']}", facts["clock_ahead_s"], facts["clock_uncertain_s"]),
        judge_open_files(check, facts["open_files"]),
    ]
    if facts["shm_bytes"] is not None:
        findings.append(judge_shared_memory(check, facts["shm_bytes"]))
    if facts["gpus"]:
        findings.append(judge_nvml(check, facts["gpus"], has_nvml=facts["has_nvml"]))
    wrong = [finding for finding in findings if finding is not None and finding.level != OK]
    if wrong:
        return wrong
    gpus = f", {counted(facts['gpus'], 'GPU')}" if facts["gpus"] else ""
    message = (
        f"{facts['host']} ({facts['address']}) sees and writes the storage, {size(facts['free_bytes'])} free{gpus}"
    )
    return [Finding(check, OK, message)]


def _storage(check: str, facts: Mapping[str, Any], storage: Path) -> Finding | None:
    host = facts["host"]
    if not facts["sees_storage"]:
        return Finding(check, PROBLEM, f"{host} has no folder {storage}", NOT_SHARED)
    if not facts["sees_file"]:
        message = f"{host} has a folder {storage}, but not the file that was written into it here: it is another one"
        return Finding(check, PROBLEM, message, NOT_SHARED)
    if facts["cannot_write"]:
        message = f"{host} sees {storage} and cannot write to it: {facts['cannot_write']}"
        mend = "run Ray as the user that owns the storage, or give its group write permission"
        return Finding(check, PROBLEM, message, mend)
    return None


def _space(check: str, facts: Mapping[str, Any], storage: Path) -> Finding | None:
    free = facts["free_bytes"]
    if free is None or free >= LITTLE_SPACE_BYTES:
        return None
    return Finding(check, WARNING, f"{facts['host']} has only {size(free)} left in {storage}", "free some space")


def _installation(check: str, facts: Mapping[str, Any]) -> list[Finding]:
    """The node has the project, and the Python that checked the spec; Ray sees to its own versions."""
    findings = []
    if facts["orchestrator"] is None:
        message = f"{facts['host']} has no installed orchestrator"
        findings.append(Finding(check, PROBLEM, message, "pip install -c constraints.txt . on that node"))
    own = platform.python_version()
    if facts["python"].rpartition(".")[0] != own.rpartition(".")[0]:
        message = f"{facts['host']} has Python {facts['python']}, here is {own}"
        mend = f"make its virtual environment with python{own.rpartition('.')[0]}"
        findings.append(Finding(check, WARNING, message, mend))
    return findings
