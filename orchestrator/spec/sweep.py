"""Placeholder until the sweep's own file is here."""

from __future__ import annotations

from orchestrator.spec.job import JobSpec


def trials_of(spec: JobSpec) -> tuple[JobSpec, ...]:
    """The job alone."""
    return (spec,)
