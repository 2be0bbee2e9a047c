"""The command line as a person uses it: a process, a folder with a spec, a storage."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from safetensors.torch import load_file

COMMAND = Path(sys.executable).with_name("orchestrator")
RECIPES = Path(__file__).parents[1] / "recipes"


def write_job(folder: Path, text: str, *recipes: str) -> Path:
    """A folder with the test recipe, others that build on it and a spec; returns the spec's path."""
    folder.mkdir(parents=True)
    for name in ("tiny.py", *recipes):
        shutil.copy(RECIPES / name, folder)
    (folder / "job.yaml").write_text(text, encoding="utf-8")
    return folder / "job.yaml"


def start(*arguments: str | Path, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """Start a command in a process group of its own."""
    return subprocess.Popen(
        [COMMAND, *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def run(*arguments: str | Path, env: dict[str, str] | None = None) -> tuple[int, str]:
    """Run a command to its end; exit code and output."""
    process = start(*arguments, env=env)
    output, _ = process.communicate()
    return process.returncode, output


def state(run_directory: Path) -> dict[str, Any]:
    """``state.json``; empty while there is none."""
    path = run_directory / "state.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def lines(path: Path) -> list[dict[str, Any]]:
    """The complete lines of a JSONL file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


def steps(run_directory: Path) -> list[int]:
    """The steps of ``metrics.jsonl``, in order."""
    return [line["step"] for line in lines(run_directory / "metrics.jsonl")]


def assert_ended_alike(undisturbed: Path, run_directory: Path, num_steps: int) -> None:
    """The job has succeeded, each step once, with the bits of an undisturbed one."""
    assert state(run_directory)["phase"] == "succeeded"
    assert steps(run_directory) == list(range(1, num_steps + 1))
    expected, got = load_file(undisturbed / "model.safetensors"), load_file(run_directory / "model.safetensors")
    assert expected.keys() == got.keys()
    for name, tensor in expected.items():
        assert tensor.equal(got[name]), name


def wait_until(condition: Callable[[], object], what: str, timeout_s: float = 240.0) -> None:
    """Poll until the condition holds; fails with ``what`` after the time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.05)


def worker_processes(run_directory: Path) -> list[psutil.Process]:
    """The live rank processes of a foreground job."""
    driver = psutil.Process(state(run_directory)["driver"]["pid"])
    return [child for child in driver.children(recursive=True) if "RayTrainWorker" in " ".join(child.cmdline())]
