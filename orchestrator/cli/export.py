"""`orchestrator export`: the weights of any checkpoint in one file that every tool reads."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.figures import counted, size
from orchestrator.cli.options import JobName, Json, Storage, open_job
from orchestrator.cli.output import emit, emit_json

Step = Annotated[
    int | None, typer.Option("--step", min=0, metavar="N", help="Step of the checkpoint. [default: the latest]")
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="File to write, or the folder to write it in. [default: JOB.safetensors in the current folder]",
        show_default=False,
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace the file if it exists.", show_default=False)]


def export(
    job: JobName,
    step: Step = None,
    output: Output = None,
    force: Force = False,
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Write the weights of a checkpoint as one safetensors file.

    Full tensors under the names of the recipe's own state_dict, whatever engine and number of workers saved them.
    The job may be running. An existing file is replaced with --force only.
    """
    from orchestrator.launch.export import export as write

    written = write(open_job(job, storage), step=step, output=output, force=force)
    if as_json:
        emit_json(asdict(written))
    else:
        emit(f"{written.file}: step {written.step:,}, {counted(written.tensors, 'tensor')}, {size(written.bytes)}")
