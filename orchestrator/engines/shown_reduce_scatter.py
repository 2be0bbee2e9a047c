"""FSDP2's messages, shown before they are sent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.distributed.fsdp._fully_shard._fsdp_api import ReduceScatter

from orchestrator.core.collectives import Halves
from orchestrator.core.errors import UnsupportedLayoutError
from orchestrator.engines.gradient_norms import GradientNorms


class ShownReduceScatter(ReduceScatter):
    """torch's own message, measured before it is sent: a worker's gradient of one unit, rank after rank.

    What a rank gets of the unit's tensors lies end to end, each padded to what the first rank gets of it.

    Args:
        unit: whose messages they are.
        norms: take them in the steps that are measured.
        halves: gives the halves of the ranks; asked in the steps whose halves are measured, which send in two steps.
    """

    def __init__(self, unit: FSDPModule, norms: GradientNorms, halves: Callable[[], Halves | None]) -> None:
        self._unit = unit
        self._norms = norms
        self._halves = halves

    def allocate(self, size: Sequence[int | torch.SymInt], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Room for a message."""
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(
        self,
        output_tensor: Tensor,
        input_tensor: Tensor,
        group: dist.ProcessGroup,
        op: Any,
        async_op: bool = False,
    ) -> dist.Work | None:
        """Measure the message and send it.

        Raises:
            UnsupportedLayoutError: where modules are measured and the message does not hold what the unit has.
        """
        if self._norms.is_on:
            world_size = group.size()
            chunk = self._norms.runs(self._members(input_tensor.numel() // world_size))
            self._norms.add(input_tensor, list(chunk) * world_size)
            if self._norms.wants_halves:
                self._in_halves(output_tensor, input_tensor, op, chunk)
                return None
        work: dist.Work | None = dist.reduce_scatter_tensor(
            output_tensor, input_tensor, op=op, group=group, async_op=async_op
        )
        return work

    def _in_halves(self, output: Tensor, message: Tensor, op: Any, chunk: Sequence[tuple[int, int]]) -> None:
        """Sum over this rank's half what it and its twin are to get, measure that, and sum with the twin."""
        halves = self._halves()
        assert halves is not None  # the engine has made them before the step
        own, twins = halves.own, halves.twins
        # For each rank of the half what it gets and what its twin gets.
        ordered = message.view(2, own.world_size, -1).transpose(0, 1).reshape(-1)
        sums = message.new_empty(2 * output.numel())
        dist.reduce_scatter_tensor(sums, ordered, op=op, group=own.group)
        self._norms.halves.add_sum(sums, [*chunk, *chunk])
        dist.reduce_scatter_tensor(output, sums, op=op, group=twins.group)

    def _members(self, length: int) -> list[tuple[str, int]]:
        """Name and length of each parameter's part of what one rank gets."""
        if self._norms.num_modules == 1:
            return [("", length)]
        members = [
            (parameter._param_fqn or "", parameter.padded_sharded_param_size.numel())
            for group in self._unit._get_fsdp_state()._fsdp_param_groups
            for parameter in group.fsdp_params
            if parameter.sharded_param.requires_grad
        ]
        if sum(size for _, size in members) != length:
            raise UnsupportedLayoutError(
                f"A message of FSDP2 holds {length} elements for each rank and its unit {sum(s for _, s in members)}: "
                "the gradients of modules cannot be told apart. Legal: engine: ddp."
            )
        return members
