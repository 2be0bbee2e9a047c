"""Layer-wise optimizers in a program that sets DeepSpeed up itself."""

from __future__ import annotations

import sys
from typing import Any

from orchestrator.core.collectives import Collectives
from orchestrator.core.layout import ShardLayout
from orchestrator.core.zero_layout import check_version, layout_of_partitions, prove_layout, runs_by_name
from orchestrator.optim.layerwise import LayerwiseBase


def attach(optimizer: LayerwiseBase, deepspeed_engine: Any) -> None:
    """Tell an optimizer where the parameters of an initialized DeepSpeed engine lie; a collective.

    To be called once, after ``deepspeed.initialize(model=model, optimizer=optimizer, ...)`` and before the first
    step. The engines of the orchestrator do it themselves.

    Args:
        optimizer: that ``deepspeed_engine`` was made with.
        deepspeed_engine: with ZeRO stage 1, 2 or 3, or bf16 weights with fp32 gradients; without any of them nothing
            is divided and there is nothing to tell.

    Raises:
        ValueError: where the engine was made with another optimizer.
        UnsupportedLayoutError: where this version of DeepSpeed is not known, or divides in an unknown way.
    """
    check_version(sys.modules["deepspeed"].__version__)
    if deepspeed_engine.optimizer is optimizer:
        return
    if deepspeed_engine.optimizer.optimizer is not optimizer:
        raise ValueError(f"the DeepSpeed engine steps with another optimizer than this {type(optimizer).__name__}")
    collectives = Collectives(deepspeed_engine.data_parallel_group)
    runs = layout_of_partitions(deepspeed_engine.optimizer, collectives.rank)
    prove_layout(runs, collectives)
    optimizer.attach(ShardLayout(runs=runs_by_name(deepspeed_engine.module, runs), collectives=collectives))
