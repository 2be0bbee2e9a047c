"""A real one-node Ray cluster with its own ports, its own folder and a token."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Self

import psutil

TOKEN = "0123456789abcdef" * 4


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago, all different."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in sockets]
    for server in sockets:
        server.close()
    return ports


def end_process_tree(process: subprocess.Popen[bytes]) -> None:
    """End a process and every process that it started, by their ids; one that has ended is left alone."""
    if process.poll() is not None:
        return
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()


class RayHead:
    """Starts on construction; ``close`` ends every process of it.

    Args:
        python_path: Folder that its jobs import from.
        num_cpus: That it offers.
    """

    def __init__(self, python_path: Path, num_cpus: int = 2) -> None:
        names = "port dashboard-port dashboard-agent-listen-port dashboard-agent-grpc-port metrics-export-port"
        names += " runtime-env-agent-port ray-client-server-port node-manager-port object-manager-port"
        ports = dict(zip(names.split(), free_ports(len(names.split())), strict=True))
        self.gcs_address = f"127.0.0.1:{ports['port']}"
        self.address = f"http://127.0.0.1:{ports['dashboard-port']}"
        self.folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))  # socket paths have to be short
        command = [Path(sys.executable).with_name("ray"), "start", "--head", "--block", "--num-gpus=0"]
        command += [f"--num-cpus={num_cpus}", "--include-dashboard=true", "--disable-usage-stats"]
        command += [f"--temp-dir={self.folder}", "--node-ip-address=127.0.0.1", "--object-store-memory=100000000"]
        with (self.folder / "start.log").open("wb") as log:
            self.process = subprocess.Popen(
                [*command, *(f"--{name}={port}" for name, port in ports.items())],
                env={**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "PYTHONPATH": str(python_path)},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        try:
            self.wait_until_up()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def wait_until_up(self) -> None:
        """Until the dashboard answers, if only to ask for the token."""
        while True:
            assert self.process.poll() is None, (self.folder / "start.log").read_text()
            try:
                urllib.request.urlopen(f"{self.address}/api/version", timeout=5).close()
            except urllib.error.HTTPError as error:
                error.close()
                return
            except OSError:
                time.sleep(0.3)

    def close(self) -> None:
        """End the cluster by the ids of its own processes."""
        end_process_tree(self.process)
        shutil.rmtree(self.folder, ignore_errors=True)
