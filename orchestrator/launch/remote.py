"""Commands of this program on the head of a cluster: for people who reach only its dashboard. One Ray Job for each.

The storage is a folder of the cluster, and who reads or writes it must be there. So the command runs there, with the
spec's folder where it names a spec, and what it prints comes back.
"""

from __future__ import annotations

import getpass
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.launch.package import Package, collect, copy_into
from orchestrator.launch.ray_entrypoint import module_entrypoint
from orchestrator.launch.ray_jobs import RayJobs
from orchestrator.spec.load import LoadedSpec
from orchestrator.tracking.uri import redact

RELAY_MODULE = "orchestrator.cli.relay"
TO_STDOUT, TO_STDERR = "\x1fo", "\x1fe"
"""What the relay writes before each line, so that data and messages are told apart again; what Ray says has neither."""
Tell = Callable[[str, bool], None]
"""Called with a line, and whether it is data for stdout."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteCommand:
    """A command that is to run there."""

    arguments: tuple[str, ...]
    """As after `orchestrator`."""
    package: Package | None
    """The spec's folder, which travels; None where no spec is named."""
    variables: Mapping[str, str]
    """Of its environment; everybody on the cluster can read them."""
    names_storage: bool
    """Whether it says itself which folder of the cluster it is about."""


def remote_command(
    arguments: Sequence[str], spec: LoadedSpec | None, environ: Mapping[str, str] = os.environ
) -> RemoteCommand:
    """What has to travel for a command.

    Args:
        arguments: as after `orchestrator`; the spec's path among them becomes that in its folder.
        spec: that one of them names.
        environ: the user's.

    Raises:
        UsageError: where the spec's folder is too large to travel.
    """
    names_storage = any(argument.partition("=")[0] == "--storage" for argument in arguments)
    # Quotas are by person, and on the head everybody would be the same one.
    variables = {"LOGNAME": getpass.getuser()}
    uri = environ.get("MLFLOW_TRACKING_URI", "")
    if uri and redact(uri) == uri:
        variables["MLFLOW_TRACKING_URI"] = uri
    if spec is None:
        return RemoteCommand(arguments=tuple(arguments), package=None, variables=variables, names_storage=names_storage)
    variables |= {name: environ[name] for name, value in spec.spec.env.items() if value is None and name in environ}
    return RemoteCommand(
        arguments=tuple(spec.file.name if _is_file(argument, spec.file) else argument for argument in arguments),
        package=collect(spec.folder, spec.folder / "runs"),
        variables=variables,
        names_storage=names_storage or spec.spec.storage is not None,
    )


def _is_file(argument: str, file: Path) -> bool:
    return Path(argument).is_file() and Path(argument).samefile(file)


def run_there(cluster: RayJobs, command: RemoteCommand, tell: Tell) -> int | None:
    """Run it and return its exit code, None after an interrupt, which is passed on to it.

    Raises:
        OutOfReachError: if the cluster does not answer.
    """
    storage = "named" if command.names_storage else "unnamed"
    entry = module_entrypoint(RELAY_MODULE, storage, *command.arguments)
    with tempfile.TemporaryDirectory(prefix="orchestrator-") as folder:
        working_dir = None
        if command.package is not None:
            working_dir = Path(folder, "spec")
            copy_into(command.package, working_dir)
        job = cluster.begin_command(entry, f"remote-{command.arguments[0]}", working_dir, command.variables)
    told = 0
    while True:
        try:
            for number, (text, is_data) in enumerate(_marked_lines(cluster.output(job)), start=1):
                if number > told:
                    tell(text, is_data)
                    told = number
            return cluster.exit_code(job)
        except KeyboardInterrupt:
            cluster.interrupt_command(job)


def _marked_lines(texts: Iterator[str]) -> Iterator[tuple[str, bool]]:
    rest = ""
    for text in texts:
        *lines, rest = (rest + text).split("\n")
        for line in lines:
            for mark in (TO_STDOUT, TO_STDERR):
                if line.startswith(mark):
                    yield line.removeprefix(mark), mark == TO_STDOUT
