"""`engine: {name: deepspeed, config: ...}`: the whole configuration that DeepSpeed is started with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.spec.batch_arithmetic import divide_step
from orchestrator.spec.config_source import ConfigSource, parse_json, read_config
from orchestrator.spec.foreign_keys import without_defaults
from orchestrator.spec.job import JobSpec
from orchestrator.spec.methods.engines import DeepSpeed


@dataclass(frozen=True)
class Zero:
    """What is divided among the workers, and what is offloaded."""

    stage: int
    offload_optimizer: str | None
    """Where optimizer state lives; None is the worker's device."""
    offload_param: str | None
    """Where weights live; None is the worker's device."""


def resolve_deepspeed_config(spec: JobSpec, folder: Path) -> dict[str, Any]:
    """Return the whole configuration for `deepspeed.initialize`: the user's, every "auto" resolved, and the job's.

    Args:
        spec: A spec whose engine is DeepSpeed and which passed the checks.
        folder: The folder of the spec, or its copy on a worker.

    Raises:
        SpecError: If the configuration cannot be read.
    """
    assert isinstance(spec.engine, DeepSpeed)
    return resolved(read_deepspeed_config(spec.engine, folder).values, spec, zero_of(spec.engine))


def read_deepspeed_config(engine: DeepSpeed, folder: Path) -> ConfigSource:
    """Read the user's configuration as it was written.

    Raises:
        SpecError: If there is no such file in the folder, or it is not one JSON object without duplicate keys.
    """
    return read_config(engine.config, "engine.config", folder, parse_json)


def zero_of(engine: DeepSpeed) -> Zero:
    """What the engine's own fields say."""
    return Zero(engine.zero_stage, engine.offload_optimizer, engine.offload_param)


def resolved(values: Mapping[str, Any], spec: JobSpec, zero: Zero) -> dict[str, Any]:
    """Lay the job's values over the user's; what the user left to the job (null, "auto") takes DeepSpeed's default.

    DeepSpeed's check of the batch (train_batch_size = micro-batch x accumulation x workers) cannot hold for batches
    that do not divide evenly, so accumulation is 1 and the global size is left for DeepSpeed to compute: these numbers
    only satisfy that check. The engine sets the boundaries of a step itself and weights every micro-batch by its share.
    """
    config = without_defaults(values)
    for key in ("train_batch_size", "torch_autocast", "bfloat16"):
        config.pop(key, None)
    division = divide_step(spec.batch.global_size, spec.resources.num_workers, spec.batch.planned_micro_size)
    return config | {
        "train_micro_batch_size_per_gpu": division.largest_micro_batch,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": spec.train.clip_grad_norm or 0.0,  # where it is absent, DeepSpeed clips to 1
        "zero_optimization": _zero_section(config.get("zero_optimization", {}), zero),
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "fp16": {"enabled": False},
        "bf16": {"enabled": False},
    }


def _zero_section(values: Mapping[str, Any], zero: Zero) -> dict[str, Any]:
    section = dict(values) | {"stage": zero.stage}
    for key in ("offload_optimizer", "offload_param"):
        device, details = getattr(zero, key), section.pop(key, {})
        if device is not None:
            section[key] = {**details, "device": device}
    return section
