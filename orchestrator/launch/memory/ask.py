"""Asks another process, which may import torch, what a recipe's model and its backward hold."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from orchestrator.launch.memory.model import Model
from orchestrator.spec.job import JobSpec
from orchestrator.spec.load import dump_resolved

DESCRIBE_MODULE = "orchestrator.train.describe"
DESCRIBE_TIMEOUT_S = 120.0


def describe_model(
    spec: JobSpec, code_folder: Path, environ: Mapping[str, str], micro_batch_sizes: Iterable[int]
) -> Model | str:
    """What is known of the recipe's model, or why nothing is, in one sentence.

    Args:
        spec: the job.
        code_folder: folder of the spec.
        environ: of the process; the job's own ``env`` is laid over it.
        micro_batch_sizes: samples of the backwards to look at.
    """
    own = {name: value for name, value in spec.env.items() if value is not None}
    with tempfile.TemporaryDirectory() as folder:
        resolved, answer = Path(folder) / "resolved.yaml", Path(folder) / "answer.json"
        resolved.write_text(dump_resolved(spec), encoding="utf-8")
        arguments = [code_folder, resolved, answer, *micro_batch_sizes]
        try:
            process = subprocess.run(
                [sys.executable, "-P", "-m", DESCRIBE_MODULE, *map(str, arguments)],
                capture_output=True,
                text=True,
                timeout=DESCRIBE_TIMEOUT_S,
                cwd=code_folder,
                env={**environ, **own, "PYTHONDONTWRITEBYTECODE": "1"},
                check=False,
            )
            lines = process.stderr.strip().splitlines() or [f"exit code {process.returncode}"]
            return _read(answer, f"failed: {lines[-1]}")
        except subprocess.TimeoutExpired:
            return _read(answer, f"took longer than {DESCRIBE_TIMEOUT_S:g} s")


def _read(answer: Path, failure: str) -> Model | str:
    """The answer as far as it came, and for what is missing how the process ended."""
    if not answer.exists():
        return f"building the model {failure}"
    found = json.loads(answer.read_text(encoding="utf-8"))
    if "error" in found:
        return str(found["error"])
    if "backwards" not in found:
        found.setdefault("activations_unknown", f"reading the data and tracing a backward {failure}")
    return Model.from_json(found)
