"""The definitions of cluster/ and docker/, and what is asked of all of them."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CLUSTER, DOCKER = ROOT / "cluster", ROOT / "docker"
ON_TWO_NODES = """
name: spread
recipe: {target: 'tiny.py:Digits'}
train: {steps: 10}
batch: {global_size: 96}
resources: {workers: 2, placement: strict_spread}
tracking: {system_metrics_every_s: null}
"""
"""A job that trains on two nodes or not at all; its recipe is the tests' own."""


def documents(path: Path) -> list[dict[str, Any]]:
    """Every document of a YAML file."""
    return [document for document in yaml.safe_load_all(path.read_text(encoding="utf-8")) if document]


def commands_in(text: str, program: str) -> Iterator[list[str]]:
    """The arguments of every call of a program, as in `ray start --head`, in a script or a YAML file."""
    without_comments = re.sub(r"^\s*#.*$", "", text, flags=re.MULTILINE)
    joined = re.sub(r"\\\n", " ", without_comments)
    for found in re.finditer(rf"\b{program} ([^\n;&|#]*)", joined):
        yield shlex.split(found[1].rstrip("\"'"), posix=True)


def options_of(arguments: list[str]) -> list[str]:
    """The names of the options among arguments."""
    return [argument.partition("=")[0] for argument in arguments if argument.startswith("--")]


def linter(name: str) -> str:
    """The path of a linter beside this Python, or on the PATH. Without it the test skips, but in CI it fails."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{name} is missing; make install brings it")
    return str(found)
