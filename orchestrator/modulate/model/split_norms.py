"""Batch norm with two sets of statistics and parameters, one for samples as they are and one for changed samples."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from orchestrator.core.errors import RecipeError

AUXILIARY = "auxiliary"
"""Name of the second set as a child of each layer: ``<layer>.auxiliary.weight``."""


def norms_of(model: nn.Module) -> list[nn.Module]:
    """Batch-norm layers, without the second sets."""
    return [
        module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and not name.endswith(f".{AUXILIARY}") and name != AUXILIARY
    ]


def split_norms(model: nn.Module) -> None:
    """Give every batch-norm layer a second set, equal to its first.

    The first one keeps its names in the model's state and is what an evaluation uses.

    Raises:
        RecipeError: where the model has none.
    """
    norms = norms_of(model)
    if not norms:
        raise RecipeError(
            f"{type(model).__name__} has no batch norm whose statistics could be separate. Legal: statistics: shared."
        )
    for norm in norms:
        # Clones, for a plan builds models of tensors without memory, which cannot be copied otherwise.
        own: dict[int, Tensor] = {id(p): nn.Parameter(p.detach().clone(), p.requires_grad) for p in norm.parameters()}
        second = copy.deepcopy(norm, own | {id(buffer): buffer.clone() for buffer in norm.buffers()})
        norm.add_module(AUXILIARY, second)
        _turn(norm, to_auxiliary=False)
        # On the object, so that its class stays what engines and recipes look for.
        norm.forward = partial(_forward, norm, norm.forward)


def _turn(norm: nn.Module, *, to_auxiliary: bool) -> None:
    norm.uses_auxiliary = to_auxiliary  # type: ignore[assignment]  # torch takes every attribute for a tensor or module


def _forward(norm: nn.Module, main: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    if norm.uses_auxiliary:
        second: Tensor = norm.get_submodule(AUXILIARY)(x)
        return second
    return main(x)


def use_auxiliary(model: nn.Module, is_used: bool) -> None:
    """Turn every layer that has a second set to it, or back to its first."""
    for norm in norms_of(model):
        if hasattr(norm, AUXILIARY):
            _turn(norm, to_auxiliary=is_used)


@contextmanager
def auxiliary(model: nn.Module) -> Iterator[None]:
    """The second sets in the block, in every layer that has one."""
    use_auxiliary(model, True)
    try:
        yield
    finally:
        use_auxiliary(model, False)
