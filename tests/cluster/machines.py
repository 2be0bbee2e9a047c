"""Machines for tests: namespaces of this one, each set with an address, a name and processes of its own.

Linux, as root. A machine also has a home folder of its own, and a /tmp/ray, where Ray keeps what it knows of a cluster.
Everything else is this machine's: the installed project, and the test's folder, which all machines share.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import psutil
import pytest

from orchestrator.launch.namespaces import Namespaces, why_not

RAY_FOLDER = Path("/tmp/ray")
"""Where Ray puts its things if nobody says otherwise."""
START = """
set -e
hostname "$1"
for file in passwd shadow hosts; do mount --bind "$2/$file" "/etc/$file"; done
mount --bind "$2/ray" /tmp/ray
mkdir -p /run/sshd
shift 2
"$@" &
wait
"""
"""The first process of a machine: it waits for every orphan, as an init does."""


def need(*programs: str) -> None:
    """Skip the test where it can have no machines or a program is missing; in CI, fail it."""
    missing = [program for program in programs if which(program) is None]
    reason = f"{', '.join(missing)} missing; tests/install.sh installs it on Debian" if missing else why_not()
    if reason is not None:
        (pytest.fail if os.environ.get("CI") and missing else pytest.skip)(reason)


def which(program: str) -> str | None:
    """Its path; daemons are not on everybody's PATH."""
    return shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


class Machine:
    """One of ``Machines``."""

    def __init__(self, name: str, address: str, folder: Path, enter_network: Sequence[str]) -> None:
        self.name, self.address = name, address
        self.folder = folder
        self._enter_network = enter_network
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def home(self) -> Path:
        """Of the user there."""
        return self.folder / "home"

    @property
    def log(self) -> Path:
        """What its first process has said."""
        return self.folder / "log"

    def start(self, *command: str | Path) -> None:
        """Switch it on; when the command ends, everything in it does."""
        isolate = ["unshare", "--mount", "--uts", "--pid", "--fork", "--mount-proc", "--kill-child"]
        with self.log.open("wb") as stream:
            self._process = subprocess.Popen(
                [*self._enter_network, *isolate, "bash", "-c", START, "bash", self.name, self.folder, *command],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )

    def inside(self) -> list[str]:
        """What to write before a command that is to run in it."""
        return ["nsenter", f"--target={self.processes()[0].pid}", "--mount", "--uts", "--pid", "--net"]

    def processes(self) -> list[psutil.Process]:
        """All that run in it, its first one first."""
        assert self._process is not None
        return psutil.Process(self._process.pid).children(recursive=True)

    def stop(self) -> None:
        """Switch it off, however busy it is."""
        if self._process is not None:
            left = self.processes() if self._process.poll() is None else []
            for process in left[:1]:
                process.kill()  # with the first process of a namespace go all others
            psutil.wait_procs(left, timeout=30)
            self._process.wait()


class Machines:
    """A context of some machines, which are off at first.

    Args:
        names: of the machines.
        folder: of all that is theirs.
    """

    def __init__(self, names: Sequence[str], folder: Path) -> None:
        self._network = Namespaces(len(names))
        self.outside = self._network.outside
        self.all = [
            Machine(name, self._network.address(number), folder / name, self._network.command(number))
            for number, name in enumerate(names)
        ]

    def __enter__(self) -> Self:
        RAY_FOLDER.mkdir(exist_ok=True)
        hosts = Path("/etc/hosts").read_text() + "".join(f"{one.address} {one.name}\n" for one in self.all)
        user = pwd.getpwuid(os.geteuid()).pw_name
        for machine in self.all:
            for folder in (machine.home, machine.folder / "ray"):
                folder.mkdir(parents=True)
            files = {
                "hosts": hosts,
                "passwd": _of_user("passwd", user, {5: str(machine.home), 6: "/bin/bash"}),
                # An account without a password is open to keys, a locked one to nobody.
                "shadow": _of_user("shadow", user, {1: "*"}),
            }
            for name, text in files.items():
                (machine.folder / name).write_text(text)
        self._network.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        for machine in self.all:
            machine.stop()
        self._network.__exit__()


def _of_user(file: str, user: str, fields: Mapping[int, str]) -> str:
    """A file of /etc with other fields in a user's line."""
    lines = [line.split(":") for line in Path("/etc", file).read_text().splitlines()]
    for line in lines:
        if line[0] == user:
            for position, value in fields.items():
                line[position] = value
    return "".join(":".join(line) + "\n" for line in lines)
