"""The environment variables that a job takes along."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from orchestrator.core.errors import UsageError
from orchestrator.spec.job import JobSpec
from orchestrator.tracking.uri import redact, resolve_tracking_uri


def missing_values(spec: JobSpec, environ: Mapping[str, str]) -> list[str]:
    """One sentence for each null value of ``env`` that the submitter's environment does not supply."""
    return [
        f"env.{name}: is null, so the submitter's environment must supply it; export {name}."
        for name, value in spec.env.items()
        if value is None and name not in environ
    ]


def own_environment(spec: JobSpec, environ: Mapping[str, str]) -> dict[str, str]:
    """The variables under ``env``, null values taken from the submitter's environment.

    Raises:
        UsageError: if one is missing there.
    """
    problems = missing_values(spec, environ)
    if problems:
        raise UsageError("\n".join(problems))
    return {name: environ[name] if value is None else value for name, value in spec.env.items()}


def job_environment(spec: JobSpec, environ: Mapping[str, str]) -> dict[str, str]:
    """The submitter's environment with the job's own variables over it.

    Raises:
        UsageError: as ``own_environment``.
    """
    return {**environ, **own_environment(spec, environ)}


def tracking_uri(spec: JobSpec, storage: Path, environ: Mapping[str, str]) -> str:
    """Where the job's history goes, passwords included; variables under ``env`` count as the job will see them."""
    own = {name: environ.get(name, "") if value is None else value for name, value in spec.env.items()}
    return resolve_tracking_uri(spec.tracking.uri, {**environ, **own}, storage)


def with_tracking_uri(spec: JobSpec, uri: str) -> JobSpec:
    """The spec with its tracking URI written out, so that a driver elsewhere means the same one.

    One with a password stays as the submitter gave it: the password is never written down.
    """
    if redact(uri) != uri:
        return spec
    return spec.model_copy(update={"tracking": spec.tracking.model_copy(update={"uri": uri})})
