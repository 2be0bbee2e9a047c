"""What a job ran on: versions and machine, for tags and reports. Imports none of the packages it names."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

PACKAGES = (
    "large-batch-orchestrator",
    "torch",
    "ray",
    "mlflow",
    "numpy",
    "datasets",
    "accelerate",
    "deepspeed",
    "pydantic",
    "safetensors",
)
"""Packages whose versions can change what a job does."""


def describe_environment(folder: Path | None = None) -> dict[str, str]:
    """Versions of Python and of the installed ones of ``PACKAGES``, platform and cores of this machine.

    Where ``folder`` lies in a git repository, ``git_commit`` is its commit, with ``-dirty`` where files differ from it.
    """
    facts = {"python": platform.python_version(), "platform": platform.platform(), "cpu_count": str(os.cpu_count())}
    for package in PACKAGES:
        try:
            facts[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    commit = _git_commit(folder) if folder else None
    return {**facts, "git_commit": commit} if commit else facts


def _git_commit(folder: Path) -> str | None:
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()
