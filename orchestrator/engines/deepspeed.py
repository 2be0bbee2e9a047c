"""DeepSpeed's ZeRO: optimizer state, gradients and weights divided among the ranks.

DeepSpeed divides and communicates; what is a step, what it weighs and how precisely it is computed stays ours. So
micro-batches of any sizes, a batch that changes and autocast mean here what they mean under every other engine.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn

from orchestrator.core.parts import EngineParts
from orchestrator.core.protocols import Engine
from orchestrator.core.run_directory import write_atomically
from orchestrator.core.zero_layout import check_version
from orchestrator.engines.base import fill_missing_gradients
from orchestrator.engines.clipping import Clipping
from orchestrator.engines.native import NativeEngine
from orchestrator.engines.precision import Precision
from orchestrator.engines.zero import ZeroEngine
from orchestrator.spec.deepspeed_config import resolve_deepspeed_config

CONFIG_FILE = "deepspeed.json"


class UndividedDeepSpeedEngine(NativeEngine):
    """ZeRO stage 0: a replica on every rank, whose gradients DeepSpeed sums; the step is ours.

    Args:
        parts: of the job.
        deepspeed_engine: initialized, with gradient clipping off.
    """

    def __init__(self, parts: EngineParts, deepspeed_engine: Any) -> None:
        super().__init__(
            deepspeed_engine.module,
            deepspeed_engine.basic_optimizer,
            parts.collectives,
            Precision(parts.spec.train.precision, parts.device),
            clipping=Clipping(parts.spec.train),
            called=deepspeed_engine,
            module_of=parts.module_of,
        )
        self._engine = deepspeed_engine
        self._loss_factor = float(parts.collectives.world_size)

    def _begin_backward(self, *, is_last: bool) -> None:
        self._engine.set_gradient_accumulation_boundary(is_last)

    def _backward(self, value: Tensor) -> None:
        # DeepSpeed averages over ranks; we want the sum.
        self._engine.backward(value * self._loss_factor, scale_wrt_gas=False)

    def _sum_gradients(self) -> dict[str, Tensor | float]:
        fill_missing_gradients(self._parameters)
        return {}

    def _clear_gradients(self) -> None:
        self._engine.zero_grad()


def build_deepspeed(parts: EngineParts) -> Engine:
    """Set DeepSpeed up as the spec says and put the engine on it; the resolved configuration is left with the job.

    Raises:
        UnsupportedLayoutError: where this version of DeepSpeed is not known, or divides in an unknown way.
    """
    deepspeed = import_deepspeed(parts.device)
    model, optimizer, config = prepare_model(parts, resolve_deepspeed_config(parts.spec, parts.code_folder))
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config, dist_init_required=False)
    save_config(parts, config)
    return engine_on(parts, engine)


def engine_on(parts: EngineParts, deepspeed_engine: Any) -> Engine:
    """The engine for an initialized DeepSpeed engine of any stage."""
    if deepspeed_engine.zero_optimization_stage() == 0:
        return UndividedDeepSpeedEngine(parts, deepspeed_engine)
    return ZeroEngine(parts, deepspeed_engine)


def prepare_model(
    parts: EngineParts, config: Mapping[str, Any]
) -> tuple[nn.Module, torch.optim.Optimizer, dict[str, Any]]:
    """What ``deepspeed.initialize`` takes: the model on its device, its optimizer and the configuration."""
    model = parts.model.to(parts.device)
    # DeepSpeed turns autocast off around the model that it did not configure itself.
    model.forward = _inside(Precision(parts.spec.train.precision, parts.device), model.forward)
    optimizer = parts.build_optimizer(model)
    for group in optimizer.param_groups:
        # What DeepSpeed may try out while it sets up must not move a weight; every step sets the rate.
        group["lr"] = 0.0
    if config["zero_optimization"]["stage"] == 0:
        # The step, clipping included, is ours.
        return model, optimizer, {**config, "gradient_clipping": 0.0}
    return model, optimizer, dict(config)


def save_config(parts: EngineParts, config: Mapping[str, Any]) -> None:
    """Leave the resolved configuration with the job."""
    if parts.collectives.rank == 0:
        write_atomically(parts.run_folder / CONFIG_FILE, json.dumps(config, indent=2) + "\n")


def import_deepspeed(device: torch.device) -> Any:
    """Import DeepSpeed for a device; it looks at the machine otherwise, and takes a GPU that the job did not ask for.

    Raises:
        UnsupportedLayoutError: where this version of DeepSpeed is not known.
    """
    os.environ["DS_ACCELERATOR"] = device.type
    if device.index is not None:
        # DeepSpeed takes the local rank for the index of the device, which Ray may give in another order.
        os.environ["LOCAL_RANK"] = str(device.index)
    deepspeed = importlib.import_module("deepspeed")
    check_version(deepspeed.__version__)
    # Its shared-memory collectives are off unless LOCAL_SIZE says that all ranks share a host; it would still compile
    # them at the start of every first job, and fail where there is no compiler.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def _inside(precision: Precision, forward: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(forward)
    def in_context(*args: Any, **kwargs: Any) -> Any:
        with precision.forward():
            return forward(*args, **kwargs)

    return in_context
