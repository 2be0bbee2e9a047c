"""Second moments kept as rows and columns of each matrix, where engines hold tensors whole or divide them by rows.

A step is written for one tensor, as a generator that yields this rank's sums and is sent those of the whole tensor.
The steps of all tensors go level by level, and each level is one message::

    step 1   yields [its columns | its rows' sum ...]   is sent them whole   yields ||u||^2   ...
    step 2   yields [...]                               is sent them whole   yields ||u||^2   ...
                     `--- one all-reduce                                          `--- another one
"""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard

from orchestrator.core.errors import UnsupportedLayoutError
from orchestrator.core.layout import ShardLayout
from orchestrator.core.reduction import Reduction
from orchestrator.core.sums import squares, sums_along
from orchestrator.optim.layerwise import LayerwiseBase, Part

TensorStep = Generator[Tensor, Tensor, None]
"""The step of one tensor: yields vectors of this rank's sums in float64, and is sent those of the whole tensor."""


@dataclass(frozen=True, slots=True)
class Factors:
    """Running means of squares along the rows and the columns of the last two dimensions: what this rank holds.

    Of a matrix that is divided by rows a rank has its rows' means and, as all ranks, those of the whole columns. Of a
    tensor with more dimensions it has whole matrices.
    """

    row: Tensor
    """[..., rows, 1]"""
    col: Tensor
    """[..., 1, columns]"""
    num_rows: int
    """Of the whole matrix."""

    def measure(self, x: Tensor, weight: float, eps: float = 0.0) -> Tensor:
        """Move the rows' means by ``weight`` towards those of x^2 + eps.

        Returns:
            What `finish` needs of the whole tensor: [columns + 1], or nothing where the rank's matrices are whole.
        """
        squared = squares(x)
        _move(self.row, sums_along(squared, -1) / x.shape[-1] + eps, weight)
        columns = sums_along(squared, -2)
        if x.dim() > 2:
            _move(self.col, columns / self.num_rows + eps, weight)
            return no_sums(x)
        return torch.cat([columns.view(-1), self.row.sum(dtype=torch.float64).view(1)])

    def finish(self, sums: Tensor, weight: float, eps: float = 0.0) -> Tensor:
        """Move the columns' means as `measure` did the rows', by its whole sums.

        Returns:
            The mean of the row factor of each matrix, in a form that divides ``row``.
        """
        if self.col.dim() > 2:
            return self.row.mean(dim=-2, keepdim=True)
        _move(self.col, sums[:-1].view(1, -1) / self.num_rows + eps, weight)
        return sums[-1] / self.num_rows


def no_sums(like: Tensor) -> Tensor:
    """What a step yields that needs nothing of other ranks at this level."""
    return like.new_empty(0, dtype=torch.float64)


def _move(average: Tensor, towards: Tensor, weight: float) -> None:
    average.lerp_(towards.to(average.dtype), weight)


class FactoredBase(LayerwiseBase):
    """An optimizer with factored second moments, over whole tensors and DTensors that are divided by rows.

    Args:
        params: tensors or groups, as torch.optim takes them.
        defaults: of the groups' options.
    """

    def attach(self, layout: ShardLayout) -> None:
        """Refuse flat partitions.

        Raises:
            UnsupportedLayoutError: always.
        """
        raise UnsupportedLayoutError(f"{type(self).__name__} needs rows and columns, which flat partitions cut apart.")

    @abstractmethod
    def _step_of(self, part: Part, *, is_alone: bool) -> TensorStep:
        """The step of one tensor; ``is_alone`` where no other is between its beginning and its end."""

    def _update(self, parts: list[Part], reduction: Reduction) -> None:
        is_alone = not reduction.is_needed
        steps = [self._step_of(part, is_alone=is_alone) for part in parts]
        for together in [[step] for step in steps] if is_alone else [steps]:
            sums = [next(step) for step in together]
            while sums:
                sums = _continue(together, _whole(sums, reduction))

    def _new_factors(self, tensor: Tensor, row: str, col: str) -> dict[str, Tensor]:
        """Zeros for the factors of a tensor with at least two dimensions, under these names."""
        if isinstance(tensor, DTensor) and not all(map(_is_by_rows, tensor.placements)):
            raise UnsupportedLayoutError(
                f"{type(self).__name__} takes tensors that are divided by rows, not as {tensor.placements}."
            )
        rows = torch.zeros_like(tensor[..., :1])
        if tensor.dim() > 2:
            return {row: rows, col: torch.zeros_like(tensor[..., :1, :])}
        # The columns' means of a divided matrix are those of whole columns, the same on every rank.
        local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
        return {row: rows, col: local.new_zeros(1, tensor.shape[1])}


def _is_by_rows(placement: Placement) -> bool:
    return isinstance(placement, Replicate) or (isinstance(placement, Shard) and placement.dim == 0)


def _continue(steps: Sequence[TensorStep], sums: Sequence[Tensor]) -> list[Tensor]:
    """What the steps yield next; nothing when they have ended, all at the same level."""
    following = []
    for step, whole in zip(steps, sums, strict=True):
        with contextlib.suppress(StopIteration):
            following.append(step.send(whole))
    return following


def _whole(sums: Sequence[Tensor], reduction: Reduction) -> Sequence[Tensor]:
    """The sums of whole tensors; one collective for vectors of any lengths."""
    lengths = [len(vector) for vector in sums]
    if not reduction.is_needed or not any(lengths):
        return sums
    message, copies = torch.cat(list(sums)), reduction.copies
    if copies is not None:
        copies = copies.repeat_interleave(torch.tensor(lengths), dim=0)
    whole = replace(reduction, copies=copies).whole(message.unsqueeze(1)).squeeze(1)
    return torch.split(whole, lengths)
