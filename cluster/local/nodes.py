"""A Ray cluster of several nodes on this machine, to try out what needs more than one: `python cluster/local/nodes.py`.

Every node has ports and a folder of its own, so it disturbs no other Ray here; with `--namespaces`, which needs root,
an address of its own too. It prints how to hand it jobs. Ctrl-C, SIGTERM and the end of any of its nodes end all of
them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import psutil

sys.path.insert(0, str(Path(__file__).parents[2]))  # as a script it stands alone

from cluster.local.namespaces import INTERFACE, Namespaces

HOST = "127.0.0.1"
OBJECT_STORE_BYTES = 100_000_000
START_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 30.0
AGENT_PORTS = (
    "dashboard-agent-listen-port",
    "dashboard-agent-grpc-port",
    "metrics-export-port",
    "runtime-env-agent-port",
    "node-manager-port",
    "object-manager-port",
)
HEAD_PORTS = ("port", "dashboard-port", "ray-client-server-port", *AGENT_PORTS)


def free_ports(names: Sequence[str]) -> dict[str, int]:
    """A port for each name, all different; free a moment ago."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server((HOST, 0))) for _ in names]
        return {name: server.getsockname()[1] for name, server in zip(names, sockets, strict=True)}


@dataclass(frozen=True)
class Site:
    """Where a node runs."""

    address: str = HOST
    prefix: tuple[str, ...] = ()
    """Of its command."""


class Node:
    """One `ray start --block`, which starts when this is made.

    Args:
        arguments: of `ray start`, besides those that every node has.
        ports: by option.
        num_cpus: that it offers.
        environment: of its processes.
        site: where it runs.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        ports: Mapping[str, int],
        num_cpus: int,
        environment: Mapping[str, str],
        site: Site,
    ) -> None:
        command = [*site.prefix, str(Path(sys.executable).with_name("ray")), "start", "--block"]
        command += ["--disable-usage-stats", f"--node-ip-address={site.address}"]
        command += [f"--num-cpus={num_cpus}", "--num-gpus=0"]
        command += [f"--object-store-memory={OBJECT_STORE_BYTES}", *arguments]
        command += [f"--{name}={port}" for name, port in ports.items()]
        self.log = Path(tempfile.mkstemp(prefix="ray-node-", suffix=".log")[1])
        with self.log.open("wb") as log:
            # A group of its own: a Ctrl-C on the terminal is ours to pass on, once.
            self._process = subprocess.Popen(
                command, env=dict(environment), stdout=log, stderr=log, start_new_session=True
            )

    @property
    def pid(self) -> int:
        """Of `ray start`, whose children the node's processes are."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def ask_to_stop(self) -> None:
        """Send it SIGTERM, on which it ends its processes; ``stop`` sees to it."""
        if self.is_alive:
            self._process.send_signal(signal.SIGTERM)

    def stop(self) -> None:
        """End it and every process that it started, by their ids, also where it has ended without them."""
        started = self._processes()
        self.ask_to_stop()
        if self.is_alive:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_TIMEOUT_S)
        for process in {*started, *self._processes()}:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()
        self.log.unlink(missing_ok=True)

    def _processes(self) -> set[psutil.Process]:
        """Those of its session, and those that it is the ancestor of."""
        own = self._process.pid
        found = set()
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError, PermissionError):
                if os.getsid(process.pid) == own:
                    found.add(process)
        if self.is_alive:  # else its number may be another's by now
            found.update(psutil.Process(own).children(recursive=True))
        return found


class Cluster:
    """A head and some more nodes; a context, after which none of them is left.

    Args:
        num_nodes: besides the head.
        cpus_per_node: that each of these offers.
        head_cpus: that the head offers to workers.
        namespaces: one for the head and each node, the head's first; None has all nodes share this machine's address.
    """

    def __init__(
        self, *, num_nodes: int, cpus_per_node: int, head_cpus: int, namespaces: Namespaces | None = None
    ) -> None:
        self.token = secrets.token_hex(32)
        self.nodes: list[Node] = []
        self._cpus_per_node, self._head_cpus = cpus_per_node, head_cpus
        self._ports = free_ports(HEAD_PORTS)
        self._sites = [Site() for _ in range(1 + num_nodes)]
        if namespaces is not None:
            self._sites = [
                Site(namespaces.address(number), tuple(namespaces.command(number))) for number in range(1 + num_nodes)
            ]
        self.address = f"http://{self._sites[0].address}:{self._ports['dashboard-port']}"
        # A short name: it holds sockets, whose paths have 107 characters at most.
        self._folder = tempfile.mkdtemp(prefix="ray")

    def __enter__(self) -> Cluster:
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for node in self.nodes:
            node.ask_to_stop()
        for node in self.nodes:
            node.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def check(self) -> None:
        """Look whether all nodes run.

        Raises:
            RuntimeError: with the words of one that has ended.
        """
        for number, node in enumerate(self.nodes):
            if not node.is_alive:
                raise RuntimeError(f"node {number} has ended:\n{node.log.read_text(errors='replace')[-3000:]}")

    def _start(self) -> None:
        environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token}
        here = self._sites[0]
        if here.prefix:
            # All nodes have this machine's name, which is no address of theirs.
            environment["GLOO_SOCKET_IFNAME"] = INTERFACE
        head = ["--head", "--include-dashboard=true", f"--dashboard-host={here.address}", f"--temp-dir={self._folder}"]
        self.nodes.append(Node(head, self._ports, self._head_cpus, environment, here))
        self._wait_for(self._answers, "the head does not answer")
        for site in self._sites[1:]:
            arguments = [f"--address={here.address}:{self._ports['port']}"]
            self.nodes.append(Node(arguments, free_ports(AGENT_PORTS), self._cpus_per_node, environment, site))
            # One after another: on few cores several at once take longer than the 30 s that Ray waits for a raylet.
            self._wait_for(lambda: self._num_alive() == len(self.nodes), "a node does not join")

    def _wait_for(self, condition: Callable[[], bool], otherwise: str) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not condition():
            self.check()
            if time.monotonic() > deadline:
                raise RuntimeError(f"{otherwise} within {START_TIMEOUT_S:g} s")
            time.sleep(0.3)

    def _answers(self) -> bool:
        try:
            # The one question that is answered without the token.
            urllib.request.urlopen(f"{self.address}/api/gcs_healthz", timeout=5).close()
        except OSError:
            return False
        return True

    def _num_alive(self) -> int:
        """Nodes that the head knows and that live."""
        request = urllib.request.Request(
            f"{self.address}/api/v0/nodes", headers={"Authorization": f"Bearer {self.token}"}
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                nodes = json.load(response)["data"]["result"]["result"]
        except OSError:
            return 0
        return sum(node["state"] == "ALIVE" for node in nodes)


def main() -> int:
    """Keep a cluster up until somebody ends it; returns the exit code."""
    parser = argparse.ArgumentParser(description="A Ray cluster of several nodes on this machine.")
    parser.add_argument("--nodes", type=int, default=2, help="nodes besides the head (default 2)")
    parser.add_argument("--cpus-per-node", type=int, default=1, help="CPUs that each of them offers (default 1)")
    parser.add_argument("--head-cpus", type=int, default=0, help="CPUs that the head offers to workers (default 0)")
    parser.add_argument("--namespaces", action="store_true", help="each with an address of its own; needs root")
    given = parser.parse_args()
    for option in ("nodes", "cpus_per_node", "head_cpus"):
        least = 1 if option == "cpus_per_node" else 0
        if getattr(given, option) < least:
            parser.error(f"--{option.replace('_', '-')} is {getattr(given, option)}; it must be at least {least}")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        with contextlib.ExitStack() as stack:
            namespaces = stack.enter_context(Namespaces(1 + given.nodes)) if given.namespaces else None
            cpus = {"cpus_per_node": given.cpus_per_node, "head_cpus": given.head_cpus}
            cluster = stack.enter_context(Cluster(num_nodes=given.nodes, namespaces=namespaces, **cpus))
            print(f"export RAY_API_SERVER_ADDRESS={cluster.address} RAY_AUTH_MODE=token RAY_AUTH_TOKEN={cluster.token}")
            print(
                "Then `orchestrator submit job.yaml --storage FOLDER --follow` in another shell. Ctrl-C ends this.",
                flush=True,
            )
            while True:
                cluster.check()
                time.sleep(1)
    except KeyboardInterrupt:
        return 0
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1


def _interrupt(number: int, frame: FrameType | None) -> None:
    # A second one must not end the ending of the nodes.
    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
