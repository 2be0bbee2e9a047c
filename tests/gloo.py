"""Runs a function on several gloo processes and gives back what each returned."""

from __future__ import annotations

import os
import tempfile
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

# The server imports these once; every rank of every test is then forked from it in a moment.
multiprocessing.set_forkserver_preload(["torch", "orchestrator.train.assemble", "datasets", "sklearn.datasets"])


def _child(rank: int, world_size: int, folder: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch")
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_RANK=str(rank))
    os.environ.update(LOCAL_WORLD_SIZE=str(world_size), MASTER_ADDR="127.0.0.1")
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world_size)
    try:
        torch.save(function(*arguments), f"{folder}/result_{rank}")
    except Exception:
        Path(f"{folder}/error_{rank}").write_text(traceback.format_exc(), encoding="utf-8")
        raise
    finally:
        dist.destroy_process_group()


def run_on_ranks(world_size: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Call ``function(*arguments)`` on every rank of a fresh gloo group; results in rank order.

    The function must be importable (a module's top level), as it travels to spawned processes.
    """
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.start_processes(
            _child, (world_size, folder, function, arguments), nprocs=world_size, start_method="forkserver"
        )
        return [torch.load(f"{folder}/result_{rank}", weights_only=False) for rank in range(world_size)]
