"""Which modules of a model are gathered, computed again or compiled as units."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from orchestrator.core.errors import RecipeError
from orchestrator.core.patterns import matches
from orchestrator.spec.job import ActivationCheckpointing

_KEPT = (
    torch.ops.aten.mm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten.bmm.default,
    torch.ops.aten.baddbmm.default,
    torch.ops.aten.convolution.default,
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.aten._scaled_dot_product_cudnn_attention.default,
)
"""Operations whose results the selective policy keeps: dear to compute, small beside what surrounds them."""


def select_modules(model: nn.Module, patterns: Sequence[str] | None) -> dict[str, nn.Module]:
    """Modules by dotted name, in the model's order; none inside another and never the model itself.

    Args:
        model: the whole model.
        patterns: class names, or dotted names with ``*`` for one part; None selects the members of every
            outermost ModuleList, the field's form for the blocks of a deep network.

    Raises:
        RecipeError: where a pattern matches no module.
    """
    named = [(name, module) for name, module in model.named_modules() if name]
    if patterns is None:
        lists = {name for name, module in named if isinstance(module, nn.ModuleList)}
        return _outermost({name: module for name, module in named if name.rpartition(".")[0] in lists})
    chosen: dict[str, nn.Module] = {}
    for pattern in patterns:
        matching = {name: module for name, module in named if _matches(pattern, name, module)}
        if not matching:
            classes = ", ".join(sorted({type(module).__name__ for _, module in named}))
            raise RecipeError(f"No module of {type(model).__name__} matches {pattern!r}; its classes are {classes}.")
        chosen.update(matching)
    return _outermost({name: module for name, module in named if name in chosen})


def _matches(pattern: str, name: str, module: nn.Module) -> bool:
    return type(module).__name__ == pattern or matches(pattern, name)


def _outermost(modules: dict[str, nn.Module]) -> dict[str, nn.Module]:
    def inside_another(name: str) -> bool:
        parts = name.split(".")
        return any(".".join(parts[:length]) in modules for length in range(1, len(parts)))

    return {name: module for name, module in modules.items() if not inside_another(name)}


def checkpoint_activations(model: nn.Module, config: ActivationCheckpointing) -> None:
    """Let the selected modules compute their activations again in the backward; names of the state stay.

    Raises:
        RecipeError: where nothing is selected.
    """
    selected = select_modules(model, config.modules)
    if not selected:
        raise RecipeError(
            f"train.activation_checkpointing.modules: {type(model).__name__} has no ModuleList; name its modules."
        )
    more: dict[str, Any] = {}
    if config.policy == "selective":
        more["context_fn"] = partial(create_selective_checkpoint_contexts, _keep_products)
    for module in islice(selected.values(), 0, None, config.every):
        module.forward = partial(checkpoint, module.forward, use_reentrant=False, **more)


def _keep_products(context: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operation in _KEPT else CheckpointPolicy.PREFER_RECOMPUTE


def compile_model(model: nn.Module, backend: str) -> None:
    """Compile the members of every ModuleList, one by one, so that equal blocks are compiled once; else the model.

    Only their forward is compiled: what an engine hooks around a module stays as it is.
    """
    for module in select_modules(model, None).values() or [model]:
        module.forward = torch.compile(module.forward, backend=backend)
