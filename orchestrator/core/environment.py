"""The variables that a job takes along: read at submission and again by its driver. No torch."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.core.errors import UsageError
from orchestrator.spec.job import AnyJobSpec

SUBMISSION_VARIABLE = "ORCHESTRATOR_SUBMISSION"
"""Tells a driver on a cluster which submission of its job it belongs to."""


def missing_values(spec: AnyJobSpec, environ: Mapping[str, str]) -> list[str]:
    """One sentence for each null value of ``env`` that the submitter's environment does not supply."""
    return [
        f"env.{name}: is null, so the submitter's environment must supply it; export {name}."
        for name, value in spec.env.items()
        if value is None and name not in environ
    ]


def own_environment(spec: AnyJobSpec, environ: Mapping[str, str]) -> dict[str, str]:
    """The variables under ``env``, null values taken from the submitter's environment.

    Raises:
        UsageError: if one is missing there.
    """
    problems = missing_values(spec, environ)
    if problems:
        raise UsageError("\n".join(problems))
    return {name: environ[name] if value is None else value for name, value in spec.env.items()}
