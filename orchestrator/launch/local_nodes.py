"""A Ray cluster of several nodes on this machine, each a `ray start --block` with ports of its own. Imports no Ray.

Every process is known by its number and its start, and only those are ever ended.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

import psutil

from orchestrator.core.errors import OrchestratorError, OutOfReachError
from orchestrator.launch.dashboard import HEALTH, ask, nodes_of
from orchestrator.launch.namespaces import INTERFACE, Namespaces
from orchestrator.launch.processes import SAME_START_TOLERANCE_S, Liveness, liveness

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


class NodeEndedError(OrchestratorError):
    """A node has ended that was to stay, or does not come up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalNode:
    """One `ray start --block`."""

    role: str
    """head or worker."""
    host: str
    pid: int
    started: float
    """Of the process, in seconds since 1970."""
    mark: str
    """A part of its command line that no other process has."""
    cpus: int
    """That it offers to workers."""
    log: str

    @property
    def is_alive(self) -> bool:
        """Whether this very process runs."""
        return liveness(asdict(self), self.mark) is Liveness.ALIVE


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalClusterRecord:
    """All that is needed to use a cluster and to end it."""

    address: str
    """URL of the dashboard."""
    gcs_address: str
    token: str
    folder: str
    """Of Ray's sessions and the nodes' logs; goes with the cluster."""
    created_at: float
    nodes: tuple[LocalNode, ...] = field(default=())

    @property
    def environment(self) -> dict[str, str]:
        """What a shell needs to use it."""
        return {
            "RAY_API_SERVER_ADDRESS": self.address,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
        }


def free_ports(names: Sequence[str]) -> dict[str, int]:
    """A port for each name, all different; free a moment ago."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server((HOST, 0))) for _ in names]
        return {name: server.getsockname()[1] for name, server in zip(names, sockets, strict=True)}


def end_nodes(nodes: Sequence[LocalNode]) -> list[psutil.Process]:
    """End nodes and every process that they started, by their ids, also where a node has ended without them.

    Returns:
        Those that outlive even SIGKILL: none.
    """
    started = {node.pid: _processes(node) for node in nodes}
    leaders = [leader for node in nodes if (leader := _leader(node)) is not None]
    for leader in leaders:
        with contextlib.suppress(psutil.NoSuchProcess):
            leader.send_signal(signal.SIGTERM)  # on which it ends its processes
    psutil.wait_procs(leaders, timeout=STOP_TIMEOUT_S)
    left = set().union(*started.values(), *(_processes(node) for node in nodes))
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    return psutil.wait_procs(left, timeout=STOP_TIMEOUT_S)[1]


def _leader(node: LocalNode) -> psutil.Process | None:
    """The process of a node, dead and not waited for too; None where there is none of its number, or another one."""
    try:
        process = psutil.Process(node.pid)
        same_start = abs(process.create_time() - node.started) <= SAME_START_TOLERANCE_S
        return process if same_start or node.is_alive else None
    except psutil.NoSuchProcess:
        return None


def _processes(node: LocalNode) -> set[psutil.Process]:
    """The node's own, those of its session, and all that these are the ancestors of."""
    leader = _leader(node)
    if leader is None and psutil.pid_exists(node.pid):
        return set()  # a number is not given away while a session of that name has members
    found = set() if leader is None else {leader}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError, PermissionError):
            if os.getsid(process.pid) == node.pid:
                found.add(process)
    for process in list(found):
        with contextlib.suppress(psutil.NoSuchProcess):
            found.update(process.children(recursive=True))
    return found


def _last_words(node: LocalNode) -> str:
    return Path(node.log).read_text(errors="replace")[-3000:]


class LocalCluster:
    """A head and some more nodes, which outlive this object unless ``stop`` is called.

    Args:
        num_nodes: besides the head.
        cpus_per_node: that each of these offers.
        head_cpus: that the head offers to workers.
        keep_record: told whenever a node has started.
        namespaces: one for the head and each node, the head's first; None has all share this machine's address.
    """

    def __init__(
        self,
        *,
        num_nodes: int,
        cpus_per_node: int,
        head_cpus: int,
        keep_record: Callable[[LocalClusterRecord], None] = lambda record: None,
        namespaces: Namespaces | None = None,
    ) -> None:
        self._num_nodes, self._cpus_per_node, self._head_cpus = num_nodes, cpus_per_node, head_cpus
        self._keep_record = keep_record
        self._namespaces = namespaces
        self._ports = free_ports(HEAD_PORTS)
        self._nodes: list[LocalNode] = []
        self._children: list[subprocess.Popen[bytes]] = []
        self._created_at = time.time()
        self._token = secrets.token_hex(32)
        # A short name: it holds sockets, whose paths have 107 characters at most.
        self._folder = Path(tempfile.mkdtemp(prefix="ray"))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def record(self) -> LocalClusterRecord:
        """The cluster as it stands."""
        return LocalClusterRecord(
            address=f"http://{self._address(0)}:{self._ports['dashboard-port']}",
            gcs_address=f"{self._address(0)}:{self._ports['port']}",
            token=self._token,
            folder=str(self._folder),
            created_at=self._created_at,
            nodes=tuple(self._nodes),
        )

    def start(self) -> None:
        """Start all nodes, one after another, and wait until the head knows them.

        Raises:
            NodeEndedError: if one does not come up; then none is left.
        """
        try:
            head = ["--head", "--include-dashboard=true", f"--dashboard-host={self._address(0)}"]
            head.append(f"--temp-dir={self._folder}")
            self._start_node("head", head, self._ports, self._head_cpus, mark=head[-1])
            self._wait_for(self._answers, "the head does not answer")
            for _ in range(self._num_nodes):
                ports = free_ports(AGENT_PORTS)
                join = f"--address={self.record.gcs_address}"
                mark = f"--node-manager-port={ports['node-manager-port']}"
                self._start_node("worker", [join], ports, self._cpus_per_node, mark=mark)
                # One by one: on few cores several at once take longer than the 30 s that Ray waits for a raylet.
                self._wait_for(lambda: self._num_alive() == len(self._nodes), "a node does not join")
        except BaseException:
            self.stop()
            raise

    def check(self) -> None:
        """Look whether all nodes run.

        Raises:
            NodeEndedError: with the words of one that has ended.
        """
        for number, (node, child) in enumerate(zip(self._nodes, self._children, strict=True)):
            if child.poll() is not None:
                raise NodeEndedError(f"node {number} has ended:\n{_last_words(node)}")

    def leave_running(self) -> None:
        """Let go of the nodes: they go on when this process has ended, and only their record leads to them."""
        for child in self._children:
            child.returncode = 0  # or Python complains that nobody has waited for it
        self._children.clear()

    def stop(self) -> None:
        """End every process of the cluster; may be called again."""
        end_nodes(self._nodes)
        for child in self._children:
            child.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start_node(
        self, role: str, arguments: Sequence[str], ports: Mapping[str, int], cpus: int, *, mark: str
    ) -> None:
        number = len(self._nodes)
        environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self._token}
        command = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--disable-usage-stats"]
        if self._namespaces is not None:
            command = [*self._namespaces.command(number), *command]
            # All nodes have this machine's name, which is no address of theirs.
            environment["GLOO_SOCKET_IFNAME"] = INTERFACE
        command += [f"--node-ip-address={self._address(number)}", f"--num-cpus={cpus}", "--num-gpus=0"]
        command += [f"--object-store-memory={OBJECT_STORE_BYTES}", *arguments]
        command += [f"--{name}={port}" for name, port in ports.items()]
        log = self._folder / f"node_{number}.log"
        with log.open("wb") as stream:
            # A session of its own: it outlives the terminal, and a Ctrl-C there is not its affair.
            child = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )
        self._children.append(child)
        self._nodes.append(
            LocalNode(
                role=role,
                host=socket.gethostname(),
                pid=child.pid,
                started=psutil.Process(child.pid).create_time(),
                mark=mark,
                cpus=cpus,
                log=str(log),
            )
        )
        self._keep_record(self.record)

    def _address(self, number: int) -> str:
        return HOST if self._namespaces is None else self._namespaces.address(number)

    def _wait_for(self, condition: Callable[[], bool], otherwise: str) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not condition():
            self.check()
            if time.monotonic() > deadline:
                raise NodeEndedError(f"{otherwise} within {START_TIMEOUT_S:g} s:\n{_last_words(self._nodes[-1])}")
            time.sleep(0.3)

    def _answers(self) -> bool:
        try:
            ask(self.record.address, HEALTH, timeout_s=5.0)
        except OutOfReachError:
            return False
        return True

    def _num_alive(self) -> int:
        """Nodes that the head knows and that live."""
        try:
            return sum(node.is_alive for node in nodes_of(self.record.address, self._token))
        except OutOfReachError:
            return 0
