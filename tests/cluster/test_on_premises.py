"""Machines that are reached by SSH, started and ended as a person does it: Ray's launcher, real sshd's, a real job."""

import getpass
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cluster_definitions import CLUSTER, ON_TWO_NODES
from end_to_end.user import lines, run, state, wait_until, write_job
from machines import Machine, Machines, need, which

pytestmark = [pytest.mark.ray, pytest.mark.distributed, pytest.mark.timeout(1500)]
LONG_S = 600.0
ON_PREMISES = CLUSTER / "on_premises" / "cluster.yaml"
EXAMPLES = ("192.0.2.10", "192.0.2.11, 192.0.2.12")
SSHD = """
Port 22
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/key.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
"""
IDLE = {"bash", "sshd"}
"""What runs on a machine without Ray."""


@dataclass
class Site:
    """A head and a worker that answer to SSH, and the laptop of somebody who may log in."""

    folder: Path
    machines: list[Machine]
    exported: dict[str, str] = field(default_factory=dict)

    @property
    def definition(self) -> Path:
        return self.folder / "cluster.yaml"

    @property
    def storage(self) -> Path:
        return self.folder / "runs"

    def prepare(self) -> None:
        for name in ("host_key", "key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.folder / name], check=True)
        (self.folder / "sshd_config").write_text(SSHD.format(folder=self.folder))
        text = ON_PREMISES.read_text().replace("~/.ssh/id_ed25519", str(self.folder / "key"))
        text = text.replace("ssh_user: train", f"ssh_user: {getpass.getuser()}")
        for example, machine in zip(EXAMPLES, self.machines, strict=True):
            text = text.replace(example, machine.address)
            (machine.home / "orchestrator").mkdir()
            (machine.home / "orchestrator" / ".venv").symlink_to(sys.prefix)
            (machine.home / ".bashrc").write_text(f"export PYTHONPATH={os.environ.get('PYTHONPATH', '')}\n")
        self.definition.write_text(text)
        (self.folder / "laptop").mkdir()
        self.storage.mkdir()

    def switch_on(self, machine: Machine) -> None:
        machine.start(which("sshd") or "", "-D", "-e", "-f", self.folder / "sshd_config")
        wait_until(lambda: "Server listening" in machine.log.read_text(), "an SSH server")

    def run(self, *command: str | Path) -> tuple[int, str]:
        """What a person does on the laptop."""
        laptop = str(self.folder / "laptop")
        return run(*command, env={"HOME": laptop, "TMPDIR": laptop, "RAY_TMPDIR": laptop, **self.exported})

    def up(self) -> None:
        code, output = self.run("cluster", "up", self.definition)
        assert code == 0, output
        found = re.search(r"^export RAY_API_SERVER_ADDRESS=(\S+) RAY_AUTH_MODE=token$", output, re.MULTILINE)
        assert found, output
        self.exported = {"RAY_API_SERVER_ADDRESS": found[1], "RAY_AUTH_MODE": "token"}

    def status(self) -> tuple[int, list[dict[str, Any]]]:
        code, output = self.run("cluster", "status", self.definition, "--json")
        return code, json.loads(output)["nodes"]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    need("sshd", "rsync")
    with Machines(("head", "worker"), tmp_path / "machines") as machines:
        site = Site(tmp_path, machines.all)
        site.prepare()
        for machine in site.machines:
            site.switch_on(machine)
        yield site


@pytest.fixture
def raylet(tmp_path: Path) -> Path:
    """A program that `ray stop` takes for Ray."""
    program = tmp_path / "raylet"
    program.symlink_to(shutil.which("sleep") or "sleep")
    return program


@contextmanager
def started(*command: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.kill()


def names_in(machine: Machine) -> set[str]:
    return {process.name() for process in machine.processes()}


def test_machines_train_from_up_to_down(site: Site, raylet: Path, tmp_path: Path) -> None:
    site.up()
    addresses = {machine.address for machine in site.machines}
    wait_until(lambda: site.status()[0] == 0, "all machines to be there", LONG_S)
    nodes = site.status()[1]
    assert {node["address"] for node in nodes} == addresses, nodes
    assert [node["is_head"] for node in nodes] == [True, False]

    spec = write_job(tmp_path / "job", ON_TWO_NODES)
    code, output = site.run("submit", spec, "--storage", site.storage, "--follow")
    assert code == 0, output
    assert state(site.storage / "spread")["phase"] == "succeeded"
    (event,) = [e for e in lines(site.storage / "spread" / "events.jsonl") if e["event"] == "started"]
    assert len(set(event["nodes"])) == 2

    # `ray stop` ends all of Ray that its machine has, and nothing of what another one has: here, this one.
    with started(raylet, "1000") as bystander, started(*site.machines[1].inside(), raylet, "1000") as other_ray:
        assert names_in(site.machines[1]) > IDLE
        code, output = site.run("cluster", "down", site.definition)
        assert code == 0, output
        assert [names_in(machine) for machine in site.machines] == [IDLE] * 2
        assert other_ray.wait(30) != 0
        assert bystander.poll() is None
