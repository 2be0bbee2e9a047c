"""Computing with a model while other tensors stand in for its weights and buffers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.func import functional_call

T = TypeVar("T")


def call_with(tensors: Mapping[str, Tensor], function: Callable[..., T], model: nn.Module, *args: Any) -> T:
    """``function(model, *args)`` while some of the model's tensors are others; afterwards they are its own again.

    Whatever the function looks up in the model it finds replaced, direct uses of ``model.layer.weight`` and forwards
    that run again in a backward included, where that backward is the function's.

    Args:
        tensors: by their names in the model; tied ones by any one of their names.
        function: called once.
        model: not touched by another thread meanwhile.
        args: further arguments.
    """
    result: T = functional_call(_Holder(model), {f"model.{name}": t for name, t in tensors.items()}, (function, *args))
    return result


class _Holder(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Callable[..., Any], *args: Any) -> Any:
        return function(self.model, *args)
