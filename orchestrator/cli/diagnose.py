"""The checks behind `orchestrator doctor`: each looks at one thing and says how to mend it. Changes nothing."""

from __future__ import annotations

import platform
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from orchestrator.cli.figures import size

TESTED_VERSIONS = {
    "torch": "2.13.0",
    "ray": "2.60.0",
    "mlflow": "3.17.2",
    "deepspeed": "0.19.8",
    "accelerate": "1.15.0",
    "datasets": "5.2.0",
    "pydantic": "2.14.3",
}
"""Versions proven together; the same as in constraints.txt."""
OLDEST_PYTHON = (3, 11)
LITTLE_SPACE_BYTES = 5 * 2**30
OK, WARNING, PROBLEM, OUT_OF_REACH = "ok", "warning", "problem", "out of reach"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check saw."""

    check: str
    level: str
    """One of ok, warning, problem, out of reach."""
    message: str
    mend: str = ""
    """A command or a sentence that puts it right; empty where nothing is wrong."""

    def as_dict(self) -> dict[str, Any]:
        """The finding for ``--json``."""
        return asdict(self)


def check_python() -> Finding:
    """The interpreter is new enough."""
    found = platform.python_version()
    if sys.version_info < OLDEST_PYTHON:
        return Finding("python", PROBLEM, f"{found} is too old", "use Python 3.11 or newer")
    return Finding("python", OK, found)


def check_version(package: str, tested: str) -> Finding:
    """The package is installed, in the version that was tested; a build tag as in 2.13.0+cpu is no difference."""
    try:
        found = metadata.version(package)
    except metadata.PackageNotFoundError:
        return Finding(package, PROBLEM, "not installed", f"pip install '{package}=={tested}'")
    if found.partition("+")[0] != tested:
        return Finding(package, WARNING, f"{found}, tested with {tested}", f"pip install '{package}=={tested}'")
    return Finding(package, OK, found)


def check_gpu_build() -> Finding | None:
    """A machine with an NVIDIA driver has a torch that can use it; None where there is no driver."""
    if shutil.which("nvidia-smi") is None:
        return None
    try:
        build = metadata.version("torch")
    except metadata.PackageNotFoundError:
        return None
    if build.endswith("+cpu"):
        mend = "install a CUDA build of torch, or keep gpus_per_worker at 0"
        return Finding("gpu", WARNING, f"this machine has an NVIDIA driver, but torch {build} cannot use it", mend)
    return Finding("gpu", OK, f"NVIDIA driver found, torch {build}")


def check_ray_extras() -> Finding:
    """Ray Jobs and the dashboard need the extra `default`, which `pip install ray` leaves out."""
    if find_spec("aiohttp_cors") is None:
        message = "ray is installed without its extra 'default': no dashboard, no jobs"
        return Finding("ray[default]", PROBLEM, message, "pip install 'ray[default,train]'")
    return Finding("ray[default]", OK, "dashboard and job server are installed")


def check_ray_token(environ: Mapping[str, str], home: Path, *, has_cluster: bool) -> Finding:
    """Ray's token will be sent where a cluster may ask for it: clients ignore it unless RAY_AUTH_MODE=token is set."""
    mode = environ.get("RAY_AUTH_MODE", "")
    given_path = environ.get("RAY_AUTH_TOKEN_PATH")
    token_file = Path(given_path) if given_path else home / ".ray" / "auth_token"
    has_token = bool(environ.get("RAY_AUTH_TOKEN")) or token_file.is_file()
    if mode == "token" and not has_token:
        mend = "ray get-auth-token --generate, or set RAY_AUTH_TOKEN to the token of the cluster"
        return Finding("ray token", PROBLEM, f"RAY_AUTH_MODE=token, but there is no token in {token_file}", mend)
    if given_path and not token_file.is_file() and not environ.get("RAY_AUTH_TOKEN"):
        mend = "correct or unset RAY_AUTH_TOKEN_PATH"
        return Finding("ray token", PROBLEM, f"RAY_AUTH_TOKEN_PATH names no file: {given_path}", mend)
    if has_token and not mode:
        message = "there is a token, but it is sent only with RAY_AUTH_MODE=token"
        if not has_cluster:
            return Finding("ray token", OK, message)
        return Finding("ray token", WARNING, message, "export RAY_AUTH_MODE=token")
    return Finding("ray token", OK, f"RAY_AUTH_MODE={mode}" if mode else "no token, no RAY_AUTH_MODE: open cluster")


def check_storage(storage: Path) -> Finding:
    """Run directories can be made there, and the disk has room; a folder that is still missing is not made."""
    existing = next(folder for folder in (storage, *storage.parents) if folder.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        mend = "choose another folder: --storage, ORCHESTRATOR_STORAGE or `storage:` in the spec"
        return Finding("storage", PROBLEM, f"{storage} cannot be written: {error.strerror}", mend)
    free = shutil.disk_usage(existing).free
    if free < LITTLE_SPACE_BYTES:
        return Finding("storage", WARNING, f"{storage} has only {size(free)} left", "free some space")
    return Finding("storage", OK, f"{storage} is writable, {size(free)} free")


def local_findings(environ: Mapping[str, str], storage: Path, *, has_cluster: bool) -> list[Finding]:
    """All checks that need no network."""
    findings = [check_python(), *(check_version(*item) for item in TESTED_VERSIONS.items()), check_gpu_build()]
    token = check_ray_token(environ, Path.home(), has_cluster=has_cluster)
    findings += [check_ray_extras(), token, check_storage(storage)]
    return [finding for finding in findings if finding is not None]
