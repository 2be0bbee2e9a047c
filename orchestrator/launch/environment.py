"""The environment variables that a job takes along."""

from __future__ import annotations

import getpass
import os
from collections.abc import Mapping
from pathlib import Path

from orchestrator.core.environment import own_environment
from orchestrator.spec.job import AnyJobSpec
from orchestrator.tracking.uri import redact, resolve_tracking_uri


def job_environment(spec: AnyJobSpec, environ: Mapping[str, str]) -> dict[str, str]:
    """The submitter's environment with the job's own variables over it.

    Raises:
        UsageError: as ``own_environment``.
    """
    return {**environ, **own_environment(spec, environ)}


def tracking_uri(spec: AnyJobSpec, storage: Path, environ: Mapping[str, str]) -> str:
    """Where the job's history goes, passwords included; variables under ``env`` count as the job will see them."""
    own = {name: environ.get(name, "") if value is None else value for name, value in spec.env.items()}
    return resolve_tracking_uri(spec.tracking.uri, {**environ, **own}, storage)


def with_tracking_uri(spec: AnyJobSpec, uri: str) -> AnyJobSpec:
    """The spec with its tracking URI written out, so that a driver elsewhere means the same one.

    One with a password stays as the submitter gave it: the password is never written down.
    """
    if redact(uri) != uri:
        return spec
    return spec.model_copy(update={"tracking": spec.tracking.model_copy(update={"uri": uri})})


def with_owner(spec: AnyJobSpec) -> AnyJobSpec:
    """The spec with the user who submits it as the owner, where it names none."""
    if spec.queue.owner is not None:
        return spec
    try:
        owner = getpass.getuser()
    except (KeyError, OSError):  # a container may run as a number that has no name
        owner = str(os.getuid())
    return spec.model_copy(update={"queue": spec.queue.model_copy(update={"owner": owner})})
