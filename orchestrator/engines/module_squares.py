"""How long the gradients of single micro-batches are, module by module, on a process that only computes gradients."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from orchestrator.core.served import ModuleSquares
from orchestrator.engines.norms import run_norms, squared_norms


class GroupSquaresOfModules:
    """Watches gradients on their way to the parameters.

    Args:
        model: whose loss is differentiated.
        module_of: number of the module of each trainable parameter, by name.
    """

    def __init__(self, model: nn.Module, module_of: Mapping[str, int]) -> None:
        self._parameters = [(module_of[name], p) for name, p in model.named_parameters() if p.requires_grad]
        self._num_modules = 1 + max(module_of.values())
        self._handles: list[RemovableHandle] = []

    def begin(self) -> None:
        """Watch until ``end``."""
        self._sums = torch.zeros(self._num_modules, dtype=torch.float64)
        self._num_groups = 0
        self._norms: list[list[Tensor]] = [[] for _ in range(self._num_modules)]
        self._handles = [p.register_hook(partial(self._add, module)) for module, p in self._parameters]

    def _add(self, module: int, piece: Tensor) -> None:
        self._norms[module] += run_norms(piece)

    def end_group(self, *, scale: float, share: float) -> None:
        """A micro-batch of that share of the batch is done, whose loss was multiplied by it and by ``scale``."""
        if share > 0:
            self._sums += squared_norms(self._norms).cpu() / (scale**2 * share)
            self._num_groups += 1
        self._norms = [[] for _ in range(self._num_modules)]

    def end(self) -> None:
        """Watch no longer."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def take(self) -> ModuleSquares:
        """Of all micro-batches since ``begin``."""
        return ModuleSquares(sums=tuple(self._sums.tolist()), num_groups=self._num_groups)
