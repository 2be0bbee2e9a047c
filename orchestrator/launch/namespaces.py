"""Network namespaces of this machine, each with an address of its own: nodes in them see each other as machines do.

Linux with iproute2, as root. One bridge, and a cable from it into each namespace, where it is called eth0.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
import subprocess
from typing import Self

from orchestrator.core.errors import OrchestratorError

INTERFACE = "eth0"
PREFIX_BITS = 24
MAX_NODES = 250


def why_not() -> str | None:
    """Why there can be none here; None where there can."""
    if shutil.which("ip") is None:
        return "iproute2 is not installed"
    name = f"try-{secrets.token_hex(3)}"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if tried.returncode:
        return tried.stderr.strip() or "namespaces cannot be made"
    _ip("netns", "delete", name)
    return None


class Namespaces:
    """A context that makes some namespaces, and takes them away when everything in them has ended.

    Args:
        count: how many, at most ``MAX_NODES``.

    Raises:
        OrchestratorError: where this machine or user cannot make them.
    """

    def __init__(self, count: int) -> None:
        if not 1 <= count <= MAX_NODES:
            raise ValueError(f"{count} namespaces; legal are 1 to {MAX_NODES}")
        tag = secrets.token_hex(3)
        self._bridge = f"ray-{tag}"
        self._names = [f"ray-{tag}-{number}" for number in range(count)]
        self._cables = [f"r{tag}.{number}" for number in range(count)]
        self._subnet = _free_subnet()

    def __enter__(self) -> Self:
        try:
            self._make()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for name in self._names:
            with contextlib.suppress(OrchestratorError):
                _ip("netns", "delete", name)  # the cable's other end goes with it
        with contextlib.suppress(OrchestratorError):
            _ip("link", "delete", self._bridge)

    def address(self, number: int) -> str:
        """Of one namespace; this machine reaches it too."""
        return f"{self._subnet}.{number + 2}"

    @property
    def outside(self) -> str:
        """This machine's own address among them."""
        return f"{self._subnet}.1"

    def command(self, number: int) -> list[str]:
        """What to write before a command that is to run in a namespace."""
        return ["ip", "netns", "exec", self._names[number]]

    def _make(self) -> None:
        _ip("link", "add", self._bridge, "type", "bridge")
        _ip("address", "add", f"{self.outside}/{PREFIX_BITS}", "dev", self._bridge)
        _ip("link", "set", self._bridge, "up")
        for number, (name, cable) in enumerate(zip(self._names, self._cables, strict=True)):
            _ip("netns", "add", name)
            _ip("link", "add", cable, "type", "veth", "peer", "name", INTERFACE, "netns", name)
            _ip("link", "set", cable, "master", self._bridge, "up")
            _ip("-n", name, "address", "add", f"{self.address(number)}/{PREFIX_BITS}", "dev", INTERFACE)
            for interface in ("lo", INTERFACE):
                _ip("-n", name, "link", "set", interface, "up")


def _free_subnet() -> str:
    """The first three numbers of private addresses that this machine does not use yet."""
    taken = subprocess.run(["ip", "-o", "address"], capture_output=True, text=True, check=True).stdout
    while f" {(subnet := f'10.{128 + secrets.randbelow(100)}.{secrets.randbelow(256)}')}." in taken:
        continue
    return subnet


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OrchestratorError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
