"""Clusters that Ray's own launcher starts by SSH, from a file such as cluster/on_premises/cluster.yaml: `ray up`.

What the file says is Ray's affair and checked there; looked at here is only what it would tell late or not at all.
"""

from __future__ import annotations

import ipaddress
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from orchestrator.core.errors import OutOfReachError, UsageError
from orchestrator.launch.ssh_stop import stop_command
from orchestrator.spec.yaml_source import read_text

DASHBOARD_PORT = 8265
EXAMPLES = tuple(map(ipaddress.ip_network, ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24")))
"""Addresses that no machine has (RFC 5737): they stand in examples."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """A file for Ray's launcher."""

    file: Path
    provider: str
    """As in its ``provider.type``: local for machines that are there, else a cloud."""
    addresses: tuple[str, ...]
    """Of machines that are there, the head's first, as this machine reaches it; empty for a cloud."""
    num_nodes: int
    """The head and the workers that are always there."""
    mounts: tuple[Path, ...]
    """Files of this machine that travel to the nodes."""
    stop: tuple[str, ...]
    """The command that ends Ray on machines that are there; empty for a cloud, which takes its machines back."""


def read_definition(file: Path) -> Definition:
    """Read the file.

    Raises:
        SpecError: if it cannot be read.
        UsageError: with everything that is wrong with it, one to a line.
    """
    try:
        # Merge keys, which our own specs refuse, are common in files for Ray.
        data = YAML(typ="safe", pure=True).load(read_text(file, str(file)))
    except YAMLError as error:
        raise UsageError(f"{file}: is not YAML: {str(error).strip().splitlines()[-1].strip()}") from None
    provider = _mapping(data, "provider")
    kind, addresses = provider.get("type"), _machines(provider)
    problems = [] if kind else [f"{file}: provider.type: missing. Legal: local, aws, gcp, ..."]
    if kind == "local" and not provider.get("head_ip"):
        problems.append(f"{file}: provider.head_ip: missing. Legal: the address of the machine that is to be the head")
    problems += [
        f"{file}: provider: {address} stands for an address of yours in examples. Legal: your machine's"
        for address in addresses
        if _is_example(address)
    ]
    if problems:
        raise UsageError("\n".join(problems))
    min_workers = data.get("min_workers")
    always = 1 + min_workers if isinstance(min_workers, int) else len(addresses)
    return Definition(
        file=file.absolute(),
        provider=str(kind),
        addresses=addresses,
        num_nodes=max(1, min(always, len(addresses))),
        mounts=tuple(Path(str(path)).expanduser() for path in _mapping(data, "file_mounts").values()),
        stop=stop_command(data) if addresses else (),
    )


def up(definition: Definition) -> None:
    """Start Ray on all machines, with a token that is made where there is none yet.

    Raises:
        UsageError: if a file that is to travel is not there.
        OutOfReachError: if the launcher fails; its words are on the terminal.
    """
    token_file = Path("~/.ray/auth_token").expanduser()
    if token_file in definition.mounts and not token_file.exists():
        _ray("get-auth-token", "--generate", quiet=True)
    missing = [str(path) for path in definition.mounts if not path.exists()]
    if missing:
        raise UsageError(f"{definition.file}: file_mounts: no such file on this machine: {', '.join(missing)}.")
    _ray("up", "--yes", str(definition.file))


def down(definition: Definition) -> None:
    """Stop Ray on all machines; those of a cloud are given back.

    Raises:
        OutOfReachError: as ``up``.
    """
    if definition.stop:
        _run(definition.stop, f"ssh {definition.addresses[0]}")
    else:
        _ray("down", "--yes", str(definition.file))


def dashboard_address(definition: Definition) -> str:
    """URL of the head's dashboard; a cloud's launcher is asked where the head is.

    Raises:
        OutOfReachError: if it does not know.
    """
    head = definition.addresses[0] if definition.addresses else _ray("get-head-ip", str(definition.file), quiet=True)
    return f"http://{head}:{DASHBOARD_PORT}"


def _ray(*arguments: str, quiet: bool = False) -> str:
    """Run a command of Ray's and return the last line that it printed, where it is not for the terminal."""
    pipe = subprocess.PIPE if quiet else None
    command = [str(Path(sys.executable).with_name("ray")), *arguments]
    process = _run(command, f"ray {' '.join(arguments)}", pipe)
    return (process.stdout or "").strip().rpartition("\n")[2]


def _run(command: Sequence[str], shown: str, pipe: int | None = None) -> subprocess.CompletedProcess[str]:
    # Its words are for people: on stderr, so that stdout stays data.
    process = subprocess.run(command, stdout=pipe or sys.stderr, stderr=pipe, text=True, check=False)
    if process.returncode != 0:
        words = (process.stderr or "").strip().splitlines()
        raise OutOfReachError(
            f"`{shown}` ended with exit code {process.returncode}{f': {words[-1]}' if words else ''}."
        )
    return process


def _mapping(data: Any, key: str) -> dict[str, Any]:
    value = data.get(key) if isinstance(data, dict) else None
    return value if isinstance(value, dict) else {}


def _machines(provider: Mapping[str, Any]) -> tuple[str, ...]:
    """Of machines that are there: the head, as this one reaches it, and the workers."""
    if provider.get("type") != "local":
        return ()
    head = provider.get("external_head_ip") or provider.get("head_ip")
    return tuple(str(address) for address in (head, *(provider.get("worker_ips") or ())) if address)


def _is_example(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(parsed in network for network in EXAMPLES)
