"""What every process of an attempt does first and last: its log, its memory, its device, a note where it fails."""

from __future__ import annotations

import json
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from orchestrator.core.errors import DivergedError, OrchestratorError, RecipeError
from orchestrator.core.run_directory import write_atomically
from orchestrator.spec.job import JobSpec
from orchestrator.train.host_memory import keep_freed_memory


@contextmanager
def own_process(log: Path) -> Iterator[None]:
    """The block is all that this process does; a failure is left beside the log before it is raised.

    Args:
        log: ``<role>_<k>.log``, which everything that is printed goes to; the note is ``failure_<role>_<k>.json``.
    """
    _redirect_output(log)
    keep_freed_memory()
    # What libraries call of torch is theirs to change; their every call would be a line of the log.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch")
    # What other processes publish is mapped read-only, and nobody writes to it.
    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
    try:
        yield
    except Exception as error:
        _leave_failure(log.with_name(f"failure_{log.stem}.json"), error)
        raise


def device_of(spec: JobSpec) -> torch.device:
    """What this process computes on."""
    if spec.resources.gpus_per_worker == 0:
        return torch.device("cpu")
    # Ray names the device of a worker that may see all GPUs of its node; torchrun counts by local rank.
    device = torch.device(os.environ.get("ACCELERATE_TORCH_DEVICE", f"cuda:{os.environ.get('LOCAL_RANK', '0')}"))
    torch.cuda.set_device(device)
    return device


def _redirect_output(log: Path) -> None:
    """Send everything that this process prints, C libraries included, to the rank's own log file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    with log.open("ab") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    # Ray replaces sys.stdout by a wrapper with its own file; ours must write to the descriptors again.
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)


def _leave_failure(path: Path, error: Exception) -> None:
    cause = "diverged" if isinstance(error, DivergedError) else "worker_crash"
    if isinstance(error, RecipeError) and cause != "diverged":
        cause = "user_error"
    details = traceback.format_exc()
    message = str(error) if isinstance(error, OrchestratorError) else f"{type(error).__name__}: {error}"
    write_atomically(path, json.dumps({"cause": cause, "message": message, "details": details}))
    print(details, file=sys.stderr, flush=True)
