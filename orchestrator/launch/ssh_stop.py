"""The command that ends Ray on machines which Ray's launcher has started it on by SSH. Runs nothing itself.

`ray down` leaves such machines running: it only says `ray stop` to the head, outside of the virtual environment.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

CONNECT_TIMEOUT_S = 10
"""Of each connection: a machine that is off must not hold the head up until it misses the others, in 30 s."""
OPTIONS = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR")
"""Whom the launcher trusts is trusted here."""
KEY_ON_HEAD = "~/ray_bootstrap_key.pem"
"""Where the launcher puts the key with which the head reaches the workers."""


def stop_command(config: Mapping[str, Any]) -> tuple[str, ...]:
    """What ends Ray on all machines by way of the head: this machine may reach no other.

    Ray is ended by the file's own commands, those before its `ray start`. First on all workers at once, as a raylet
    whose head is gone ends late; then on the head, before it misses the workers and starts them again. The exit code
    is 1 where it fails somewhere, with the addresses on stderr.

    Args:
        config: of a provider of type local, with a head.
    """
    provider, auth = config["provider"], config.get("auth")
    auth = auth if isinstance(auth, Mapping) else {}
    user, key = auth.get("ssh_user"), auth.get("ssh_private_key")
    lines = ["failed=0", "ends=()"]
    for address in provider.get("worker_ips") or ():
        there = _ssh(user, address, KEY_ON_HEAD if key else None)
        command = shlex.join([*there, _in_login_shell(_before_start(config, "worker"))])
        lines.append(f"{{ {command} </dev/null || {{ {_complaint(address)}; exit 1; }}; }} & ends+=($!)")
    lines += [
        'for end in "${ends[@]}"; do wait "$end" || failed=1; done',
        f"{_in_login_shell(_before_start(config, 'head'))} || {{ {_complaint(provider['head_ip'])}; failed=1; }}",
        'exit "$failed"',
    ]
    head = provider.get("external_head_ip") or provider["head_ip"]
    reach = _ssh(user, head, str(Path(key).expanduser()) if key else None, auth.get("ssh_proxy_command"))
    return (*reach, shlex.join(["bash", "-c", "\n".join(lines)]))


def _before_start(config: Mapping[str, Any], role: str) -> str:
    """The commands of a role that come before the one that starts Ray."""
    commands: Sequence[str] = config.get(f"{role}_start_ray_commands") or ("ray stop",)
    starts = [number for number, command in enumerate(commands) if "ray start" in command]
    return " && ".join(f"{{ {command}; }}" for command in commands[: starts[0] if starts else None]) or "ray stop"


def _in_login_shell(command: str) -> str:
    """As the launcher runs its commands."""
    return shlex.join(["bash", "--login", "-i", "-c", f"source ~/.bashrc; {command}"])


def _complaint(address: str) -> str:
    return f"echo {shlex.quote(f'{address}: Ray could not be ended')} >&2"


def _ssh(user: str | None, address: str, key: str | None, proxy: str | None = None) -> list[str]:
    options = [*OPTIONS, f"ConnectTimeout={CONNECT_TIMEOUT_S}", *([f"ProxyCommand={proxy}"] if proxy else [])]
    identity = ["-i", key] if key else []
    return ["ssh", "-tt", *identity, *(word for option in options for word in ("-o", option)), _at(user, address)]


def _at(user: str | None, address: str) -> str:
    return f"{user}@{address}" if user else address
