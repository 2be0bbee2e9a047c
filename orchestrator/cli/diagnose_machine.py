"""What `orchestrator doctor` looks at on a machine: limits that Ray and data loaders run into. Changes nothing."""

from __future__ import annotations

import resource
import shutil
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from orchestrator.cli.diagnose import OK, WARNING, Finding
from orchestrator.cli.figures import counted, size

LITTLE_SHARED_MEMORY_BYTES = 2**30
FEW_OPEN_FILES = 4096
FULL = 0.95
"""Ray takes no more objects where its folder's disk is fuller than this."""


def check_shared_memory(folder: Path = Path("/dev/shm")) -> Finding | None:
    """Objects of Ray and data loaders go through /dev/shm, of which containers have 64 MiB unless told otherwise."""
    if not folder.is_dir():
        return None
    return judge_shared_memory("shared memory", shutil.disk_usage(folder).total)


def judge_shared_memory(check: str, total_bytes: int) -> Finding:
    """What the size of /dev/shm means."""
    if total_bytes >= LITTLE_SHARED_MEMORY_BYTES:
        return Finding(check, OK, f"/dev/shm has {size(total_bytes)}")
    message = f"/dev/shm has only {size(total_bytes)}; Ray's objects and data loaders go through it"
    mend = "docker run --shm-size=8g, `shm_size: 8gb` in Compose, or mount -o remount,size=8G /dev/shm"
    return Finding(check, WARNING, message, mend)


def check_open_files() -> Finding:
    """Each worker of Ray and each connection takes some of them."""
    return judge_open_files("open files", resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def judge_open_files(check: str, limit: int) -> Finding:
    """What the limit on open files means; a negative one is none."""
    if limit < 0 or limit >= FEW_OPEN_FILES:
        return Finding(check, OK, "no limit" if limit < 0 else f"up to {counted(limit, 'open file')}")
    message = f"only {counted(limit, 'open file')} for a process, and Ray takes thousands"
    return Finding(check, WARNING, message, "ulimit -n 65536, before Ray is started")


def check_nvml(devices: Path = Path("/dev")) -> Finding | None:
    """Without NVIDIA's library for Python GPUs are missing in MLflow's system metrics; None without a GPU."""
    gpus = len(list(devices.glob("nvidia[0-9]*")))
    if gpus == 0:
        return None
    return judge_nvml("gpu metrics", gpus, has_nvml=find_spec("pynvml") is not None)


def judge_nvml(check: str, gpus: int, *, has_nvml: bool) -> Finding:
    """What GPUs need to be measured."""
    if has_nvml:
        return Finding(check, OK, f"pynvml measures {counted(gpus, 'GPU')}")
    message = f"{counted(gpus, 'GPU')}, but no pynvml: MLflow's system metrics leave them out without a word"
    return Finding(check, WARNING, message, "pip install nvidia-ml-py")


def check_ray_folder(environ: Mapping[str, str]) -> Finding:
    """Where Ray keeps its sessions has room."""
    folder = Path(environ.get("RAY_TMPDIR") or "/tmp")
    if not folder.is_dir():
        return Finding("ray folder", WARNING, f"RAY_TMPDIR names no folder: {folder}", f"mkdir -p {folder}")
    usage = shutil.disk_usage(folder)
    used = 1 - usage.free / usage.total
    if used < FULL:
        return Finding("ray folder", OK, f"{folder} is {used:.0%} full")
    message = f"{folder} is {used:.0%} full; from {FULL:.0%} on Ray takes no more objects"
    return Finding("ray folder", WARNING, message, "free some space, or ray start --temp-dir=FOLDER on another disk")


def machine_findings(environ: Mapping[str, str]) -> list[Finding]:
    """All checks of this machine's limits."""
    findings = [check_shared_memory(), check_open_files(), check_nvml(), check_ray_folder(environ)]
    return [finding for finding in findings if finding is not None]
