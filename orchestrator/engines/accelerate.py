"""FSDP2 or DeepSpeed as Hugging Face Accelerate sets them up; the step is that of our own engines."""

from __future__ import annotations

import os
from typing import Any

from orchestrator.core.parts import EngineParts
from orchestrator.core.protocols import Engine
from orchestrator.engines.deepspeed import engine_on, import_deepspeed, prepare_model, save_config
from orchestrator.engines.fsdp2 import Fsdp2Engine
from orchestrator.spec.accelerate_config import ResolvedAccelerate, resolve_accelerate_config


def build_accelerate(parts: EngineParts) -> Engine:
    """Let Accelerate divide the model as its configuration says and put the engine on it.

    Raises:
        UnsupportedLayoutError: where this version of DeepSpeed is not known, or divides in an unknown way.
    """
    resolved = resolve_accelerate_config(parts.spec, parts.code_folder)
    if resolved.kind == "deepspeed":
        return _on_deepspeed(parts, resolved)
    return _on_fsdp2(parts, resolved)


def _on_fsdp2(parts: EngineParts, resolved: ResolvedAccelerate) -> Engine:
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

    parts.collectives.broadcast_model_(parts.model, parts.device)
    plugin = FullyShardedDataParallelPlugin(**resolved.plugin_arguments)
    accelerator = _accelerator(parts, fsdp_plugin=plugin)
    if accelerator.distributed_type is not DistributedType.FSDP:
        # Accelerate offers FSDP on accelerators only; what its plugin does works on CPUs as well.
        accelerator.state.distributed_type = DistributedType.FSDP
        accelerator.state.fsdp_plugin = plugin
    model, optimizer = accelerator.prepare(parts.model, parts.build_optimizer(parts.model))
    return Fsdp2Engine(parts, model, optimizer.optimizer)


def _on_deepspeed(parts: EngineParts, resolved: ResolvedAccelerate) -> Engine:
    assert resolved.deepspeed_config is not None  # given with this kind
    import_deepspeed(parts.device)
    from accelerate.utils import DeepSpeedPlugin

    plugin = DeepSpeedPlugin(hf_ds_config=resolved.deepspeed_config, **resolved.plugin_arguments)
    accelerator = _accelerator(parts, deepspeed_plugin=plugin)
    model, optimizer, config = prepare_model(parts, resolved.deepspeed_config)
    plugin.deepspeed_config.update(config)
    engine, _ = accelerator.prepare(model, optimizer)
    save_config(parts, config)
    return engine_on(parts, engine)


def _accelerator(parts: EngineParts, **plugin: Any) -> Any:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    # One per process, kept in globals; a process that trains another job starts anew.
    AcceleratorState._reset_state(reset_partial_state=True)
    for name in ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"):
        os.environ.pop(name, None)
    # Precision is autocast around the model, as under every engine.
    return Accelerator(mixed_precision="no", cpu=parts.device.type == "cpu" and "fsdp_plugin" in plugin, **plugin)
