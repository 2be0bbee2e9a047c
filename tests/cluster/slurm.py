"""A Slurm of two nodes for tests: its daemons, each node's in a machine of its own (``machines``)."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from machines import Machines, which

from orchestrator.launch.local_nodes import free_ports

START_TIMEOUT_S = 60.0
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}({outside})
SlurmctldPort={port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmUser=root
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdSpoolDir={folder}/%n
SlurmdPidFile={folder}/%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
# A job whose time is up has five minutes more to stop in.
OverTimeLimit=5
PartitionName=all Nodes=ALL Default=YES State=UP
"""


class Slurm:
    """A context: started with both nodes idle, and in the end gone with all jobs.

    Args:
        folder: of its files.
        machines: its nodes, which it switches on.
    """

    def __init__(self, folder: Path, machines: Machines) -> None:
        self._folder, self._machines = folder, machines
        self._daemons: list[subprocess.Popen[bytes]] = []
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf")}

    def __enter__(self) -> Self:
        self._folder.mkdir()
        self._folder.chmod(0o755)
        host = socket.gethostname().partition(".")[0]
        text = CONFIGURATION.format(
            host=host, outside=self._machines.outside, port=free_ports(["slurmctld"])["slurmctld"], folder=self._folder
        )
        for machine in self._machines.all:
            (self._folder / machine.name).mkdir()
            text += f"NodeName={machine.name} NodeAddr={machine.address} CPUs=2\n"
        (self._folder / "slurm.conf").write_text(text)
        # No control group is used, but the plugin for them is started, and this one asks for none that is mounted.
        (self._folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        (self._folder / "state").mkdir()
        key = self._folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for machine in self._machines.all:
            machine.stop()
        for daemon in reversed(self._daemons):
            daemon.terminate()
            daemon.wait(30)

    def run(self, *command: str | Path, **variables: str) -> str:
        """Run one of Slurm's commands; returns what it says."""
        done = subprocess.run(
            command, env={**os.environ, **self.environment, **variables}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def job(self, number: str) -> dict[str, str]:
        """What Slurm knows of a job."""
        return dict(re.findall(r"(\w+)=(\S*)", self.run("scontrol", "show", "job", number)))

    def busy(self) -> set[str]:
        """Names of what runs on the nodes besides Slurm."""
        names = {process.name() for machine in self._machines.all for process in machine.processes()}
        return names - {"bash", "slurmd"}

    def _start(self) -> None:
        files = {name: self._folder / f"munge.{name}" for name in ("socket", "key", "pid", "log", "seed")}
        options = [f"--{name}-file={files[name]}" for name in ("key", "pid", "log", "seed")]
        self._daemon("munged", "--foreground", "--force", f"--socket={files['socket']}", *options)
        self._wait_for(files["socket"].exists, "munged")
        self._daemon("slurmctld", "-D", "-f", self._folder / "slurm.conf")
        for machine in self._machines.all:
            machine.start(which("slurmd") or "slurmd", "-D", "-f", self._folder / "slurm.conf")
        self._wait_for(self._all_idle, "slurmctld and the nodes")

    def _all_idle(self) -> bool:
        try:
            states = self.run("sinfo", "--noheader", "--Node", "--format=%T").split()
        except AssertionError:
            return False
        return states == ["idle"] * len(self._machines.all)

    def _daemon(self, name: str, *arguments: str | Path) -> None:
        with (self._folder / f"{name}.log").open("wb") as stream:
            self._daemons.append(
                subprocess.Popen(
                    [which(name) or name, *arguments],
                    env={**os.environ, **self.environment},
                    stdin=subprocess.DEVNULL,
                    stdout=stream,
                    stderr=stream,
                    start_new_session=True,
                )
            )

    def _wait_for(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not condition():
            logs = "\n".join(path.read_text()[-2000:] for path in sorted(self._folder.glob("*.log")))
            assert time.monotonic() < deadline, f"{what} not within {START_TIMEOUT_S:g} s:\n{logs}"
            time.sleep(0.1)
