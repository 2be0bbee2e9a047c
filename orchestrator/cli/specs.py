"""`orchestrator check` and `schema`: is a spec in order, and what may stand in one. No torch, no Ray."""

from __future__ import annotations

from orchestrator.cli.figures import counted
from orchestrator.cli.options import Json, Overrides, SpecPath
from orchestrator.cli.output import emit, emit_json
from orchestrator.core.errors import BAD_USAGE, SUCCESS


def check(spec: SpecPath, overrides: Overrides = [], as_json: Json = False) -> int:  # noqa: B006 - typer only reads it
    """Check a spec and print every problem in it."""
    from orchestrator.cli.trials import assignment_table
    from orchestrator.spec.load import load_spec
    from orchestrator.spec.problems import SpecError
    from orchestrator.spec.sweep import sweep_of

    try:
        loaded = load_spec(spec, overrides)
    except SpecError as error:
        if not as_json:
            raise
        emit_json({"ok": False, "problems": [vars(problem) for problem in error.problems]})
        return BAD_USAGE
    assignments = sweep_of(loaded.spec)
    if as_json:
        trials = {"trials": assignments} if assignments else {}
        emit_json({"ok": True, "name": loaded.spec.name, "problems": [], **trials})
    elif assignments:
        emit(f"{spec}: job {loaded.spec.name} is in order, a sweep of {counted(len(assignments), 'trial')}")
        emit("\n" + "\n".join(assignment_table(assignments)))
    else:
        emit(f"{spec}: job {loaded.spec.name} is in order")
    return SUCCESS


def schema() -> None:
    """Print the JSON schema of the spec, for editors."""
    from orchestrator.spec.schema import job_schema

    emit_json(job_schema())
