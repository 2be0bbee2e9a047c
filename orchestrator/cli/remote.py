"""`orchestrator remote`: any other command, run where the cluster and its storage are."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.figures import counted, size
from orchestrator.cli.interrupts import INTERRUPTED
from orchestrator.cli.options import Address
from orchestrator.cli.output import emit, tell
from orchestrator.core.errors import UsageError

if TYPE_CHECKING:
    from orchestrator.spec.load import LoadedSpec

NOT_THERE = {
    "run": "has a Ray of its own: `submit` hands the job to the cluster",
    "remote": "is for here",
    "watch": "needs a terminal: `status` and `logs -f` do not",
    "cluster": "is for here",
}
Command = Annotated[
    list[str], typer.Argument(metavar="COMMAND [ARGUMENT]...", help="As after `orchestrator`.", show_default=False)
]


def remote(command: Command, address: Address = None) -> int:
    """Run a command on the head of a cluster.

    `orchestrator remote submit job.yaml --storage /shared/runs --follow` uploads the spec's folder and submits it
    there; `list`, `status`, `logs -f`, `stop`, `resume`, `queue` and the others read the storage there. Exit code
    and output are those of the command; Ctrl-C is passed on to it.
    """
    from orchestrator.launch.ray_jobs import RayJobs
    from orchestrator.launch.remote import remote_command, run_there

    name, *arguments = command
    if name in NOT_THERE:
        raise UsageError(f"remote: {name} {NOT_THERE[name]}.")
    cluster = RayJobs(address)
    what = remote_command(command, _spec_among(arguments))
    if what.package is not None:
        tell(f"{counted(len(what.package.files), 'file')}, {size(what.package.num_bytes)}, of {what.package.folder}")
    code = run_there(cluster, what, _print)
    return INTERRUPTED if code is None else code


def _spec_among(arguments: list[str]) -> LoadedSpec | None:
    from orchestrator.spec.load import load_spec

    overrides = [value for key, value in pairwise(arguments) if key == "--set"]
    for argument in arguments:
        if Path(argument).suffix in (".yaml", ".yml") and Path(argument).is_file():
            return load_spec(argument, overrides)
    return None


def _print(line: str, is_data: bool) -> None:
    if is_data:
        emit(line)
    else:
        tell(line)
