"""The hand-written loop under a bare Ray Train TorchTrainer: a private cluster, nothing else."""

from __future__ import annotations

import json
import sys
import tempfile

import ray
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from benchmarks.peers.digits_loop import ROOT, train


def main() -> None:
    """The configuration of the loop, and the number of ``workers``, are the first argument, as JSON."""
    config = json.loads(sys.argv[1])
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=256 * 2**20)
    with tempfile.TemporaryDirectory() as folder:
        TorchTrainer(
            train,
            train_loop_config=config,
            scaling_config=ScalingConfig(num_workers=config["workers"]),
            run_config=RunConfig(name="bare", storage_path=folder, worker_runtime_env=_python_path()),
        ).fit()


def _python_path() -> dict[str, dict[str, str]]:
    return {"env_vars": {"PYTHONPATH": str(ROOT)}}


if __name__ == "__main__":
    main()
