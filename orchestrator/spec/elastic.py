"""A job whose number of workers is a range, as the jobs with one number that it may be."""

from __future__ import annotations

from typing import overload

from orchestrator.spec.job import AnyJobSpec, JobSpec, WorkerRange


def is_elastic(spec: AnyJobSpec) -> bool:
    """Whether the number of workers is a range."""
    return isinstance(spec.resources.workers, WorkerRange)


def worker_numbers(spec: AnyJobSpec) -> range:
    """Every number of workers that the job may have."""
    return range(spec.resources.num_workers, spec.resources.max_workers + 1)


@overload
def with_workers(spec: JobSpec, num_workers: int) -> JobSpec: ...
@overload
def with_workers(spec: AnyJobSpec, num_workers: int) -> AnyJobSpec: ...


def with_workers(spec: AnyJobSpec, num_workers: int) -> AnyJobSpec:
    """The same job with this number of workers."""
    resources = spec.resources.model_copy(update={"workers": num_workers})
    return spec.model_copy(update={"resources": resources})
