"""The digits training as one writes it by hand with torch's DistributedDataParallel; no orchestrator in the loop.

Under torchrun it is a script; under a bare Ray Train TorchTrainer it is the training function. Rank 0 leaves a JSON
file with the clock at the end of the second step and the length of each step.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import BatchSampler, DistributedSampler

from orchestrator.optim.lamb import Lamb

GLOBAL_BATCH_SIZE = 1024
ROOT = Path(__file__).parents[2]


def train(config: dict[str, Any]) -> None:
    """Train for ``steps`` on the process group that is already there; ``result`` is the file that rank 0 leaves."""
    sys.path.insert(0, str(ROOT / "jobs" / "digits"))
    recipe = importlib.import_module("recipe").Digits(**config["args"])
    rank, world_size = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    dataset, _ = recipe.build_datasets()
    model = DistributedDataParallel(recipe.build_model())
    decayed = [p for p in model.parameters() if p.dim() > 1]
    undecayed = [p for p in model.parameters() if p.dim() <= 1]
    optimizer = Lamb([{"params": decayed}, {"params": undecayed, "weight_decay": 0.0}], lr=0.01)
    # The data set fits into memory: whole columns and an index are the fastest loading that one would write.
    columns = {name: torch.as_tensor(dataset[:][name]) for name in ("pixels", "label")}
    sampler: DistributedSampler[Any] = DistributedSampler(dataset, seed=0, drop_last=True)
    loader = BatchSampler(sampler, GLOBAL_BATCH_SIZE // world_size, drop_last=True)
    log = _open_mlflow(config.get("mlflow")) if rank == 0 else None
    step_s: list[float] = []
    second_step_at = 0.0
    batches = iter(loader)
    for step in range(config["steps"]):
        started = time.perf_counter()
        ids = next(batches, None)
        if ids is None:
            sampler.set_epoch(step)
            batches = iter(loader)
            ids = next(batches)
        batch = {name: column[ids] for name, column in columns.items()}
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * (1 - step / config["steps"])
        optimizer.zero_grad()
        loss, metrics = recipe.loss(model, batch)
        loss.backward()
        optimizer.step()
        values = {"loss": float(loss), **{name: float(value) for name, value in metrics.items()}}
        step_s.append(time.perf_counter() - started)
        if log is not None:
            log(values, step)
        if step == 1:
            second_step_at = time.time()
    if rank == 0:
        text = json.dumps({"second_step_at": second_step_at, "step_s": step_s})
        Path(config["result"]).write_text(text, encoding="utf-8")


def _open_mlflow(uri: str | None) -> Any:
    """A function that logs one step, as MLflow's own tutorial has it; None without tracking."""
    if uri is None:
        return None
    import mlflow

    mlflow.set_tracking_uri(uri)
    mlflow.start_run()
    mlflow.log_params({"lr": 0.01, "global_batch_size": GLOBAL_BATCH_SIZE})
    return lambda values, step: mlflow.log_metrics(values, step=step, synchronous=False)


def main() -> None:
    """Entry under torchrun: the configuration is the first argument, as JSON."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    train(json.loads(sys.argv[1]))
    dist.destroy_process_group()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
