"""torch DDP under a bare Ray Train TorchTrainer with workers that wait as a file of delays says."""

from __future__ import annotations

import csv
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import ray
import torch
import torch.distributed as dist
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from torch.nn.parallel import DistributedDataParallel

ROOT = Path(__file__).parents[2]


def train(config: dict[str, Any]) -> None:
    """As many steps as the file has lines; rank 0 leaves the seconds of each step."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rank, world_size = dist.get_rank(), dist.get_world_size()
    with Path(config["delays"]).open(newline="", encoding="utf-8") as stream:
        delays = [[float(cell) for cell in row] for row in csv.reader(stream)]
    model = DistributedDataParallel(
        torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    x, y = torch.randn(64, 64), torch.randint(10, (64,))
    step_s = []
    for row in delays:
        started = time.perf_counter()
        time.sleep(row[rank] + config["seconds_per_batch"] / world_size)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        step_s.append(time.perf_counter() - started)
    if rank == 0:
        Path(config["result"]).write_text(json.dumps(step_s), encoding="utf-8")


def main() -> None:
    """The configuration of the loop, and the number of ``workers``, are the first argument, as JSON."""
    config = json.loads(sys.argv[1])
    ray.init(address="local", num_cpus=config["workers"] + 1, include_dashboard=False, log_to_driver=False)
    with tempfile.TemporaryDirectory() as folder:
        TorchTrainer(
            train,
            train_loop_config=config,
            scaling_config=ScalingConfig(num_workers=config["workers"]),
            run_config=RunConfig(
                name="bare", storage_path=folder, worker_runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}}
            ),
        ).fit()


if __name__ == "__main__":
    main()
