"""`engine: {name: accelerate, config: ...}`: what Accelerate is set up with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from orchestrator.spec.config_source import ConfigSource, parse_config_yaml, parse_json, read_config
from orchestrator.spec.deepspeed_config import Zero, resolved
from orchestrator.spec.foreign_keys import is_left_to_the_job, value_at, without_defaults
from orchestrator.spec.job import JobSpec
from orchestrator.spec.methods.engines import Accelerate

FIELD = "engine.config"
FILE_FIELD = f"{FIELD}.deepspeed_config.deepspeed_config_file"
DEFAULT_ZERO_STAGE = 2
"""Accelerate's, where a configuration names none."""
_FSDP_ARGUMENTS = {
    "fsdp_reshard_after_forward": "reshard_after_forward",
    "fsdp_offload_params": "cpu_offload",
    "fsdp_auto_wrap_policy": "auto_wrap_policy",
    "fsdp_min_num_params": "min_num_params",
    "fsdp_state_dict_type": "state_dict_type",
}


@dataclass(frozen=True)
class ResolvedAccelerate:
    """What the engine hands to Accelerate."""

    kind: Literal["fsdp2", "deepspeed"]
    plugin_arguments: Mapping[str, Any]
    """Keyword arguments of FullyShardedDataParallelPlugin or DeepSpeedPlugin."""
    deepspeed_config: dict[str, Any] | None
    """DeepSpeed's whole configuration, for the plugin's ``hf_ds_config``; None with FSDP2."""


def resolve_accelerate_config(spec: JobSpec, folder: Path) -> ResolvedAccelerate:
    """Return the set-up of Accelerate: the user's, every "auto" resolved, and the job's.

    Args:
        spec: A spec whose engine is Accelerate and which passed the checks.
        folder: The folder of the spec, or its copy on a worker.

    Raises:
        SpecError: If the configuration cannot be read.
    """
    assert isinstance(spec.engine, Accelerate)
    values = without_defaults(read_accelerate_config(spec.engine, folder).values)
    if values["distributed_type"] == "FSDP":
        return ResolvedAccelerate("fsdp2", _fsdp_arguments(values.get("fsdp_config", {})), None)
    section = values.get("deepspeed_config", {})
    file = read_deepspeed_file(section, folder)
    written = without_defaults(file.values) if file else _as_deepspeed(section)
    # The recipe builds its model before the engine divides it, so that there is nothing for zero.Init to do.
    return ResolvedAccelerate("deepspeed", {"zero3_init_flag": False}, resolved(written, spec, zero_of(written)))


def read_accelerate_config(engine: Accelerate, folder: Path) -> ConfigSource:
    """Read the user's configuration as it was written.

    Raises:
        SpecError: If there is no such file in the folder, or it is not one mapping in YAML.
    """
    return read_config(engine.config, FIELD, folder, parse_config_yaml)


def read_deepspeed_file(section: Any, folder: Path) -> ConfigSource | None:
    """Read the JSON file that ``deepspeed_config`` names; None where it names none.

    Raises:
        SpecError: If there is no such file in the folder, or it is not one JSON object without duplicate keys.
    """
    name = value_at(section, "deepspeed_config_file")
    return read_config(name, FILE_FIELD, folder, parse_json) if isinstance(name, str) else None


def zero_of(deepspeed_config: Mapping[str, Any]) -> Zero:
    """What a configuration of DeepSpeed itself says, with Accelerate's default."""
    stage, *devices = (
        value_at(deepspeed_config, f"zero_optimization.{path}")
        for path in ("stage", "offload_optimizer.device", "offload_param.device")
    )
    optimizer, param = (None if is_left_to_the_job(device) or device == "none" else device for device in devices)
    return Zero(DEFAULT_ZERO_STAGE if is_left_to_the_job(stage) else stage, optimizer, param)


def _as_deepspeed(section: Mapping[str, Any]) -> dict[str, Any]:
    """Accelerate's own names for a few of DeepSpeed's settings, as DeepSpeed has them."""
    zero: dict[str, Any] = {
        "stage": section.get("zero_stage"),
        "offload_optimizer": {"device": section.get("offload_optimizer_device")},
        "offload_param": {"device": section.get("offload_param_device")},
        "stage3_gather_16bit_weights_on_model_save": section.get("zero3_save_16bit_model"),
    }
    return without_defaults({"zero_optimization": zero})


def _fsdp_arguments(section: Mapping[str, Any]) -> dict[str, Any]:
    # The recipe builds its model on every worker, so that there is nothing to load from the first.
    arguments: dict[str, Any] = {"fsdp_version": 2, "cpu_ram_efficient_loading": False}
    arguments |= {name: section[key] for key, name in _FSDP_ARGUMENTS.items() if key in section}
    classes = section.get("fsdp_transformer_layer_cls_to_wrap")
    if classes is not None:
        arguments["transformer_cls_names_to_wrap"] = [name.strip() for name in classes.split(",")]
    return arguments
