"""A second raylet on this machine, joined to a head, with its own ports and folder."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
from launch.ray_head import TOKEN, RayHead, end_process_tree, free_ports


class SecondNode:
    """Starts on construction; ``close`` ends every process of it.

    Args:
        head: the cluster to join.
        num_cpus: that it offers.
    """

    def __init__(self, head: RayHead, num_cpus: int = 1) -> None:
        names = "dashboard-agent-listen-port dashboard-agent-grpc-port metrics-export-port"
        names += " runtime-env-agent-port node-manager-port object-manager-port"
        ports = dict(zip(names.split(), free_ports(len(names.split())), strict=True))
        self.folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))
        command = [Path(sys.executable).with_name("ray"), "start", "--block", f"--address={head.gcs_address}"]
        command += [f"--num-cpus={num_cpus}", "--num-gpus=0", "--node-ip-address=127.0.0.1", "--disable-usage-stats"]
        command += ["--object-store-memory=100000000"]
        with (self.folder / "start.log").open("wb") as log:
            self.process = subprocess.Popen(
                [*command, *(f"--{name}={port}" for name, port in ports.items())],
                env={**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def has_raylet(self) -> bool:
        """Whether its raylet runs."""
        assert self.process.poll() is None, (self.folder / "start.log").read_text()
        children = psutil.Process(self.process.pid).children(recursive=True)
        return any(child.name() == "raylet" for child in children)

    def kill(self) -> None:
        """End every process of it at once, without a word to the cluster, as a machine that loses its power does."""
        processes = [*psutil.Process(self.process.pid).children(recursive=True), psutil.Process(self.process.pid)]
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()

    def close(self) -> None:
        """End the node by the ids of its own processes."""
        end_process_tree(self.process)
        shutil.rmtree(self.folder, ignore_errors=True)
