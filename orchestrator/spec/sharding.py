"""FSDP2 as a spec sets it up, through its own engine or through Accelerate's."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.spec.accelerate_config import resolve_accelerate_config
from orchestrator.spec.job import JobSpec
from orchestrator.spec.methods.engines import Accelerate, Fsdp2

ACCELERATE_MIN_PARAMETERS = 100_000_000
"""Accelerate's least size of a module that is wrapped by its size."""
NO_MODULE = sys.maxsize
"""Parameters that no module has."""


def fsdp2_of(spec: JobSpec, folder: Path) -> Fsdp2 | None:
    """The engine as FSDP2 with the same units; None where it is another.

    Args:
        spec: A spec that passed the checks.
        folder: The folder of the spec, or its copy on a worker.

    Raises:
        SpecError: If the engine's own configuration cannot be read.
    """
    if isinstance(spec.engine, Fsdp2):
        return spec.engine
    if isinstance(spec.engine, Accelerate):
        resolved = resolve_accelerate_config(spec, folder)
        return _wrapped_by_accelerate(resolved.plugin_arguments) if resolved.kind == "fsdp2" else None
    return None


def _wrapped_by_accelerate(arguments: Mapping[str, Any]) -> Fsdp2:
    """A model's blocks are wrapped where Accelerate would look for the classes that a Hugging Face model names."""
    units: dict[str, Any] = {"wrap_min_parameters": NO_MODULE}
    policy = arguments.get("auto_wrap_policy")
    if policy == "TRANSFORMER_BASED_WRAP":
        units = {"wrap_modules": arguments.get("transformer_cls_names_to_wrap")}
    if policy == "SIZE_BASED_WRAP":
        units = {"wrap_min_parameters": arguments.get("min_num_params") or ACCELERATE_MIN_PARAMETERS}
    settings = {key: arguments[key] for key in ("reshard_after_forward", "cpu_offload") if key in arguments}
    return Fsdp2.model_validate({"name": "fsdp2", **units, **settings})
