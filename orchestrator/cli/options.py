"""Arguments and options that several commands share, so that they are named and explained once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.core.errors import UsageError
from orchestrator.core.run_directory import RunDirectory

SpecPath = Annotated[Path, typer.Argument(metavar="SPEC", help="The job spec, a YAML file.", show_default=False)]
JobName = Annotated[str, typer.Argument(metavar="JOB", help="Name of the job.", show_default=False)]
Overrides = Annotated[
    list[str],
    typer.Option(
        "--set", metavar="A.B=VALUE", help="Replace one value of the spec; may be repeated.", show_default=False
    ),
]
Storage = Annotated[
    str | None,
    typer.Option(
        "--storage",
        metavar="FOLDER",
        help="Folder of all run directories. [default: `storage` of the spec, ORCHESTRATOR_STORAGE, ./runs]",
        show_default=False,
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print data for scripts: one JSON document on stdout.", show_default=False)
]
Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="URL",
        help="Ray dashboard, as in http://head:8265. [default: RAY_API_SERVER_ADDRESS, RAY_ADDRESS]",
        show_default=False,
    ),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Continue the job of this name where it was.", show_default=False)
]
NewName = Annotated[
    bool,
    typer.Option("--new-name", help="If the name is taken, use the next free one: name-2, name-3.", show_default=False),
]


def open_job(name: str, storage: str | None) -> RunDirectory:
    """The run directory of a job.

    Raises:
        UsageError: where the storage has no such job.
    """
    from orchestrator.launch.store import JobStore, resolve_storage

    return JobStore(resolve_storage(storage, None, os.environ)).get(name)


def check_target(option: str, file: Path, force: bool) -> None:
    """Refuse a file that cannot be written, before any work is done for it.

    Raises:
        UsageError: where its folder does not exist, or something of its name does and is not to be replaced.
    """
    if not file.absolute().parent.is_dir():
        raise UsageError(f"{option}: there is no folder {file.absolute().parent}.")
    if file.is_dir() or (file.exists() and not force):
        raise UsageError(f"{option}: {file} exists; name another file, or replace it with --force.")
