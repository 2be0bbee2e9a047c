"""`orchestrator fetch`: jobs of which only a copy is left, brought back to where they can be gone on with."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from orchestrator.cli.figures import counted, size
from orchestrator.cli.options import Json, Storage
from orchestrator.cli.output import aligned, emit, emit_json, phase_text, tell

Names = Annotated[list[str] | None, typer.Argument(metavar="[JOB]...", help="Names of jobs.", show_default=False)]
MirrorUrl = Annotated[
    str,
    typer.Option("--mirror", metavar="URL", help="Where copies are, as `mirror` of their specs.", show_default=False),
]


def fetch(jobs: Names = None, *, mirror: MirrorUrl, storage: Storage = None, as_json: Json = False) -> None:
    """Bring jobs back from their copies, or list these.

    The copy is one that the spec's `mirror` has made. What it brings back can be resumed, exported and reported on.
    """
    from orchestrator.core.mirror import Mirror
    from orchestrator.launch.fetch import fetch as bring_back
    from orchestrator.launch.store import JobStore, resolve_storage

    copies = Mirror(mirror)
    if not jobs:
        states = {name: copies.state(name) for name in copies.names()}
        if as_json:
            emit_json([{"name": name, **state} for name, state in states.items()])
            return
        if not states:
            tell(f"No jobs in {mirror}.")
            return
        rows = [(name, phase_text(state["phase"]), str(state.get("step") or "")) for name, state in states.items()]
        for line in aligned([("NAME", "PHASE", "STEP"), *rows]):
            emit(line)
        return
    store = JobStore(resolve_storage(storage, None, os.environ))
    fetched = [bring_back(copies, name, store) for name in jobs]
    if as_json:
        emit_json([{"name": one.name, "files": one.files, "bytes": one.bytes} for one in fetched])
        return
    for one in fetched:
        emit(f"{store.storage / one.name}: {counted(one.files, 'file')}, {size(one.bytes)}")
        tell(f"`orchestrator resume {one.name}` goes on from its last checkpoint.")
