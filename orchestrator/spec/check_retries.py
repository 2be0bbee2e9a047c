"""Check of the retry classes: what they look at must be there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from orchestrator.spec.job import JobSpec
from orchestrator.spec.problems import Problem, shown


def exit_code_problems(spec: JobSpec, folder: Path) -> Iterator[Problem]:
    """Exit codes are those of scripts: a worker that trains a recipe lives in a process of Ray's."""
    for number, one in enumerate(spec.retries.classes):
        if one.exit_codes is not None:
            message = "only a script has exit codes"
            legal = "a pattern, which sees the error and what the worker printed"
            yield Problem("", f"retries.classes.{number}.exit_codes", shown(list(one.exit_codes)), message, legal)
