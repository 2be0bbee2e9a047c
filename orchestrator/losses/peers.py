"""Who computes a batch together, and what each of them brings to a loss over pairs."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

import torch
import torch.distributed as dist
from torch import Tensor

from orchestrator.core.collectives import Collectives
from orchestrator.core.coupling import present_coupling
from orchestrator.core.errors import RecipeError


@dataclass(frozen=True, slots=True)
class Peers:
    """The ranks whose samples make one batch; a single one where nobody else computes."""

    rank: int
    num_rows: tuple[int, ...]
    """Samples of each rank that belong to the batch; 0 where it only keeps in step."""

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return len(self.num_rows)

    @property
    def offsets(self) -> tuple[int, ...]:
        """Samples before those of each rank, in the order of the ranks."""
        return tuple(accumulate(self.num_rows, initial=0))[:-1]


@dataclass(frozen=True, slots=True)
class Pairs:
    """This rank's pairs of a batch: row i of ``x`` belongs to row i of ``y``."""

    x: Tensor
    y: Tensor
    peers: Peers


def meet(loss: str, x: Tensor, y: Tensor) -> Pairs:
    """What of the rows belongs to the batch, in full precision, and who else has some. A collective.

    Args:
        loss: name of the function that was called.
        x: embeddings, shape [samples, width].
        y: theirs, of the same shape.

    Raises:
        RecipeError: where the samples of a batch are never together here, or the shapes are of another form.
    """
    how = present_coupling()
    if how.refusal:
        raise RecipeError(f"{loss} couples all samples of a batch: {how.refusal}")
    if x.dim() != 2 or x.shape != y.shape:
        raise RecipeError(
            f"{loss}: x has the shape {list(x.shape)} and y {list(y.shape)}. "
            "Legal: two of one shape [samples, width], row i of one belonging to row i of the other."
        )
    if not how.counts:
        # An empty share: its mean is 0, and the graph still reaches every weight and joins every message.
        x, y = x[:0], y[:0]
    x, y = (rows.float() if rows.dtype in (torch.float16, torch.bfloat16) else rows for rows in (x, y))
    collectives = Collectives()
    if not how.spans_ranks or collectives.world_size == 1:
        return Pairs(x, y, Peers(0, (len(x),)))
    own = torch.tensor([len(x), x.shape[1]], device=collectives.device)
    shapes = own.new_empty(2 * collectives.world_size)
    dist.all_gather_into_tensor(shapes, own)
    num_rows, widths = shapes.view(-1, 2).t().tolist()
    if len(set(widths)) > 1:
        raise RecipeError(f"{loss}: the workers' embeddings are {widths} wide. Legal: one width.")
    return Pairs(x, y, Peers(collectives.rank, tuple(num_rows)))
