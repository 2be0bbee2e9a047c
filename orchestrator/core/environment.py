"""The variables that a spec gives to its workers: read at submission and again by the job's driver. No torch."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.core.errors import UsageError
from orchestrator.spec.job import AnyJobSpec


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
