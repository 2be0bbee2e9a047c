"""How the gradients of a step's two halves differ, module by module: their squared norms, and no gradient is gathered.

The halves are the first half of the workers and the second, or of the only worker's micro-batches those up to half of
the batch and the rest. Each has its part h_A, h_B in the step's gradient, h_A + h_B: with the norm of that sum two
norms tell the inner product.
"""

from __future__ import annotations

import torch
from torch import Tensor

from orchestrator.core.collectives import Collectives
from orchestrator.engines.norms import Runs, module_norms, run_norms, squared_norm, squared_norms

_JUST_BELOW_HALF = 0.5 - 1e-9
"""Shares are sums of floating-point numbers."""


class HalfNorms:
    """The two halves of one step.

    Args:
        collectives: the job's.
        num_modules: of the model.
    """

    def __init__(self, collectives: Collectives, num_modules: int) -> None:
        self._rank, self._world_size = collectives.rank, collectives.world_size
        self._num_modules = num_modules
        self._sums: list[Tensor] = []
        self._copies: dict[tuple[int, str], tuple[int, Tensor]] = {}

    def add_piece(self, name: str, module: int, piece: Tensor, share: float) -> None:
        """Take a parameter's piece of a micro-batch's gradient; a copy of a half's gradient is kept for the step.

        Args:
            name: of the parameter.
            module: its number.
            piece: read at once.
            share: of the batch that this worker has done before this micro-batch.
        """
        half = self._half if self._world_size > 1 else int(share >= _JUST_BELOW_HALF)
        if (half, name) in self._copies:
            self._copies[half, name][1].add_(piece.detach())
        else:
            self._copies[half, name] = module, piece.detach().clone()

    def add_sum(self, flat: Tensor, runs: Runs, *, copies: int = 1) -> None:
        """Take elements of the sum of this rank's half.

        Args:
            flat: of the sum, read at once.
            runs: whose they are.
            copies: ranks of the half that hold the same elements.
        """
        norms = module_norms(flat, runs, self._num_modules)
        self._sums.append(squared_norms(norms) / copies)

    @property
    def _half(self) -> int:
        return 2 * self._rank // self._world_size

    def take_squares(self, like: Tensor) -> Tensor:
        """This rank's part of the squared norms, [2, modules] in float64 where ``like`` is; forgets the step."""
        squares = torch.zeros(2, self._num_modules, dtype=torch.float64, device=like.device)
        for part in self._sums:
            squares[self._half] += part.to(like.device)
        for (half, _), (module, copy) in self._copies.items():
            squares[half, module] += squared_norm(run_norms(copy)).to(like.device)
        self._sums, self._copies = [], {}
        return squares
