"""A job whose number of workers is a range, as the jobs with one number that it may be."""

from __future__ import annotations

from typing import overload

from orchestrator.spec.job import AnyJobSpec, JobSpec, WorkerRange
from orchestrator.spec.methods.controllers import Goodput


def is_elastic(spec: AnyJobSpec) -> bool:
    """Whether the number of workers is a range."""
    return isinstance(spec.resources.workers, WorkerRange)


def worker_numbers(spec: AnyJobSpec) -> range:
    """Every number of workers that the job may have."""
    return range(spec.resources.num_workers, spec.resources.max_workers + 1)


def workers_for(batch: int, samples_per_worker: int, limits: WorkerRange) -> int:
    """The fewest workers of a range that have at most ``samples_per_worker`` each of a step of ``batch`` samples."""
    return min(max(-(-batch // samples_per_worker), limits.min), limits.max)


def within_range(spec: AnyJobSpec, num_workers: int) -> int:
    """The number of workers that the job may have which is next to another one."""
    return min(max(num_workers, spec.resources.num_workers), spec.resources.max_workers)


def first_wish(spec: AnyJobSpec) -> int | None:
    """Workers that a job asks for before it has taken a step; None where it never asks and takes what there is."""
    limits = spec.resources.workers
    if isinstance(limits, int) or not isinstance(spec, JobSpec):
        return None
    if limits.samples_per_worker is not None:
        return workers_for(spec.batch.global_size, limits.samples_per_worker, limits)
    controller = spec.batch.controller
    return limits.min if isinstance(controller, Goodput) and controller.min_utility is not None else None


@overload
def with_workers(spec: JobSpec, num_workers: int) -> JobSpec: ...
@overload
def with_workers(spec: AnyJobSpec, num_workers: int) -> AnyJobSpec: ...


def with_workers(spec: AnyJobSpec, num_workers: int) -> AnyJobSpec:
    """The same job with this number of workers."""
    resources = spec.resources.model_copy(update={"workers": num_workers})
    return spec.model_copy(update={"resources": resources})
