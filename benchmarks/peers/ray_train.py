"""The hand-written loop under a bare Ray Train TorchTrainer: a private cluster or the one around, nothing else."""

from __future__ import annotations

import json
import sys
import tempfile

import ray
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from benchmarks.peers.digits_loop import ROOT, train


def main() -> None:
    """The first argument is JSON: the loop's configuration, how many ``workers``, whether a ``cluster`` is around."""
    config = json.loads(sys.argv[1])
    if config.get("cluster"):
        ray.init(address="auto", log_to_driver=False)
    else:
        own = {"num_cpus": 2, "include_dashboard": False, "object_store_memory": 256 * 2**20}
        ray.init(address="local", log_to_driver=False, **own)
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
