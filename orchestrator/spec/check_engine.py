"""What types cannot see of an engine's configuration."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from orchestrator.spec.accelerate_config import read_accelerate_config
from orchestrator.spec.check_deepspeed import LEAST_STAGE
from orchestrator.spec.job import JobSpec
from orchestrator.spec.methods.distribution import AllReduce
from orchestrator.spec.methods.engines import LOCAL_GRADIENTS, Accelerate, DeepSpeed, Engine, Fsdp2
from orchestrator.spec.problems import Problem, shown
from orchestrator.spec.section import Method


def lacking(requires: frozenset[str], engine: Engine) -> frozenset[str]:
    """Capabilities that a method requires and an engine lacks: the one rule of what may be combined."""
    return requires - engine.provides


def methods_of(spec: JobSpec) -> dict[str, Method]:
    """The methods of a spec that may require something of its engine, by their dotted paths."""
    return {
        "batch.controller": spec.batch.controller,
        "optimizer": spec.optimizer,
        "schedule": spec.schedule,
        "exchange": spec.exchange,
        "data.source": spec.data.source,
        **{f"modulators.{index}": modulator for index, modulator in enumerate(spec.modulators)},
    }


def admits(engine: Engine, spec: JobSpec) -> bool:
    """Whether an engine in place of the spec's own would provide all that the spec's methods require."""
    return not any(lacking(method.requires, engine) for method in methods_of(spec).values())


def with_its_file(engine: Engine, folder: Path) -> Engine:
    """The engine, with the contents of a configuration file of its own that decide what it provides.

    Raises:
        SpecError: where the file cannot be read.
    """
    if isinstance(engine, Accelerate):
        return engine.model_copy(update={"config": dict(read_accelerate_config(engine, folder).values)})
    return engine


def message_problems(spec: JobSpec, folder: Path) -> Iterator[Problem]:
    """Only an engine whose gradients are summed by the exchange has messages of the exchange's size."""
    size = spec.exchange.bucket_mib if isinstance(spec.exchange, AllReduce) else None
    if size is not None and LOCAL_GRADIENTS not in spec.engine.provides:
        message = f"{spec.engine.title} sums gradients in messages of its own"
        yield Problem("", "exchange.bucket_mib", shown(size), message, "null, or engine: ddp")


def mesh_problems(spec: JobSpec, folder: Path) -> Iterator[Problem]:
    """The replica groups of FSDP2 take up all workers."""
    if not isinstance(spec.engine, Fsdp2):
        return
    mesh, workers = spec.engine.mesh, spec.resources.num_workers
    if mesh.shard is None and workers % mesh.replicate:
        message = f"{workers} workers / {mesh.replicate} replica groups = {workers / mesh.replicate:.3g} workers each"
        divisors = ", ".join(str(n) for n in range(1, workers + 1) if workers % n == 0)
        yield Problem("", "engine.mesh.replicate", str(mesh.replicate), message, f"a divisor of {workers}: {divisors}")
    elif mesh.shard is not None and mesh.replicate * mesh.shard != workers:
        product = mesh.replicate * mesh.shard
        message = f"{mesh.replicate} replica groups x {mesh.shard} workers = {product}, but the job has {workers}"
        yield Problem("", "engine.mesh.shard", str(mesh.shard), message, "null, or workers divided by replicate")


def offload_problems(spec: JobSpec, folder: Path) -> Iterator[Problem]:
    """DeepSpeed offloads only what it divides."""
    engine = spec.engine
    if not isinstance(engine, DeepSpeed):
        return
    for field, least in LEAST_STAGE.items():
        value = getattr(engine, field)
        if value is not None and engine.zero_stage < least:
            message = f"zero_stage {engine.zero_stage} does not divide what would be offloaded"
            yield Problem("", f"engine.{field}", shown(value), message, f"null, or zero_stage of at least {least}")
