"""Elementwise variance of the gradients of a step's groups, for methods that trust an element by its noise."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from orchestrator.core.collectives import Collectives
from orchestrator.core.signal_to_noise import SignalToNoise

LEAST_SHARE = 1e-12
"""Least variance of an element, as a share of its mean square: ratios stay finite."""


class GroupSquares:
    """Sums (n_k / B) g_k^2 over the groups of all ranks, element by element.

    A loss carries its share of the batch, so of group k an engine sees h_k = (n_k / B) g_k, whose square is divided by
    that share. Groups are workers; micro-batches where there is one worker.

    Args:
        board: told the ratios of each step.
        parameters: in the same order on every rank.
        collectives: over all ranks.
    """

    def __init__(self, board: SignalToNoise, parameters: Sequence[nn.Parameter], collectives: Collectives) -> None:
        self._board = board
        self._parameters = parameters
        self._collectives = collectives
        self._sums: dict[Tensor, Tensor] = {}
        self._messages: list[tuple[Sequence[nn.Parameter], Tensor]] = []
        self._share = self._current = 0.0
        self._num_groups = 0
        if collectives.world_size == 1:
            for parameter in parameters:
                parameter.register_hook(lambda piece, parameter=parameter: self._add_piece(parameter, piece))

    def begin_micro_batch(self, share: float) -> None:
        """The next backward is of that share of the batch."""
        self._current = share
        self._share += share
        if self._collectives.world_size == 1 and share > 0:
            self._num_groups += 1

    def add_bucket(self, message: Tensor, parameters: Sequence[nn.Parameter]) -> None:
        """Take this rank's own gradient of some parameters, end to end, before it is summed."""
        self._messages.append((parameters, message.detach().square()))

    def _add_piece(self, parameter: nn.Parameter, piece: Tensor) -> None:
        if self._current > 0:
            square = piece.detach().square() / self._current
            self._sums[parameter] = self._sums[parameter] + square if parameter in self._sums else square

    def finish(self) -> None:
        """Tell the board, once every ``.grad`` holds the sum over ranks."""
        if self._collectives.world_size > 1:
            self._num_groups = self._collectives.sum_int(int(self._share > 0))
            for parameters, square in self._messages:
                if self._share > 0:
                    square /= self._share
                self._collectives.sum_(square)
                parts = square.split([parameter.numel() for parameter in parameters])
                self._sums.update(zip(parameters, parts, strict=True))
        self._board.ratios = self._ratios() if self._num_groups > 1 else {}
        self._sums, self._messages, self._share, self._num_groups = {}, [], 0.0, 0

    def _ratios(self) -> dict[Tensor, Tensor]:
        found: dict[Tensor, Tensor] = {}
        for parameter in self._parameters:
            signal = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.square()
            mean_square = self._sums.get(parameter, signal).view_as(signal)
            variance = torch.maximum(mean_square - signal, LEAST_SHARE * mean_square)
            found[parameter] = torch.where(mean_square > 0, signal / variance, torch.zeros_like(signal))
        return found
