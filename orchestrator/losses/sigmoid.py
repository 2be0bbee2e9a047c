"""The sigmoid contrastive loss (SigLIP) over the samples of all workers, block by block."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from orchestrator.losses.peers import meet
from orchestrator.losses.ring import Route, arrivals


def sigmoid_contrastive(
    x: Tensor,
    y: Tensor,
    scale: Tensor | float,
    bias: Tensor | float,
    *,
    exchange: Route = "shift",
) -> Tensor:
    """The mean over this worker's rows of a yes-or-no question about each of the batch's B pairs (i, j).

    For row i, with z_ij = 1 where j = i and -1 elsewhere::

        l_i = -sum_j log sigmoid( z_ij (t x_i.y_j + b) )            j = 1 ... B

    The y of one worker after the other come round, gradients go back the way they came. Worker k computes one block
    [b, b] at a time, again in the backward; of the others' y it keeps [B, width]. Workers weigh their means by their
    shares of the batch and sum gradients, as every engine does; the gradient of (1/B) sum_i l_i comes of that, those
    of temperature and bias included.

    Source: Zhai, Mustafa, Kolesnikov, Beyer (SigLIP, arXiv 2303.15343). The paper starts with t = 10, b = -10 and
    displays +b outside of z; its pseudo-code, and this, has it inside.

    Args:
        x: one view's embeddings, shape [b, width], of length 1 each.
        y: the other's; row i belongs to row i.
        scale: t > 0; a scalar, learned where it has a gradient.
        bias: b; likewise. -10 makes up for the B - 1 negatives of each positive.
        exchange: ``shift`` sends y to the next worker, workers - 1 times; ``bidirectional`` both ways, half as often.

    Returns:
        A scalar in nats.

    Raises:
        RecipeError: where the batch is cut into pieces that do not see each other, the shapes are of another form, or
            the exchange is unknown.
    """
    pairs = meet("sigmoid_contrastive", x, y)
    with torch.autocast(x.device.type, enabled=False):
        total = _again_in_backward(_own_block, pairs.x, pairs.y, scale, bias)
        for others in arrivals(pairs.y, pairs.peers, exchange):
            total = total + _again_in_backward(_block_of_negatives, pairs.x, others, scale, bias)
        return total / max(1, len(pairs.x))


def _own_block(x: Tensor, y: Tensor, scale: Tensor | float, bias: Tensor | float) -> Tensor:
    logits = scale * (x @ y.t()) + bias
    signs = 2 * torch.eye(len(x), dtype=logits.dtype, device=logits.device) - 1
    return -functional.logsigmoid(signs * logits).sum()


def _block_of_negatives(x: Tensor, y: Tensor, scale: Tensor | float, bias: Tensor | float) -> Tensor:
    return -functional.logsigmoid(-(scale * (x @ y.t()) + bias)).sum()


def _again_in_backward(block: Callable[..., Tensor], *arguments: Tensor | float) -> Tensor:
    """A block that is not kept: what is kept of all blocks together would be [b, B]."""
    total: Tensor = checkpoint(block, *arguments, use_reentrant=False, preserve_rng_state=False)
    return total
