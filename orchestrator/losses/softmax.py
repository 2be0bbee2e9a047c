"""The softmax contrastive loss (InfoNCE, as in CLIP) over the samples of all workers."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from orchestrator.losses.gather import gather
from orchestrator.losses.peers import Peers, meet


def softmax_contrastive(x: Tensor, y: Tensor, scale: Tensor | float, *, symmetric: bool = True) -> Tensor:
    """The mean over this worker's pairs of how far each is from being told among all pairs of the batch.

    For pair i, with B samples over all workers::

        l_i = -log( exp(t x_i.y_i) / sum_j exp(t x_i.y_j) )         j = 1 ... B
        symmetric: the mean of this and of the same with x and y exchanged

    Workers weigh their means by their shares of the batch and sum gradients, as every engine does; the gradient of
    the whole batch's mean comes of that, the temperature's included. Worker k has its own rows of the logits,
    [b, B] and twice that where it is symmetric; `sigmoid_contrastive` needs no more than [b, b].

    Source: van den Oord, Li, Vinyals (arXiv 1807.03748); symmetric: Radford et al. (CLIP, arXiv 2103.00020).

    Args:
        x: one view's embeddings, shape [b, width], of length 1 each where the scale is to mean what it does in CLIP.
        y: the other's; row i belongs to row i.
        scale: t > 0, the inverse of the temperature; a scalar, learned where it has a gradient.
        symmetric: whether y is told among x too.

    Returns:
        A scalar in nats.

    Raises:
        RecipeError: where the batch is cut into pieces that do not see each other, or the shapes are of another form.
    """
    pairs = meet("softmax_contrastive", x, y)
    with torch.autocast(x.device.type, enabled=False):
        loss = _told_among(pairs.x, gather(pairs.y, pairs.peers), scale, pairs.peers)
        if symmetric:
            loss = (loss + _told_among(pairs.y, gather(pairs.x, pairs.peers), scale, pairs.peers)) / 2
    return loss


def _told_among(rows: Tensor, columns: Tensor, scale: Tensor | float, peers: Peers) -> Tensor:
    logits = scale * (rows @ columns.t())
    own = peers.offsets[peers.rank] + torch.arange(len(rows), device=rows.device)
    return functional.cross_entropy(logits, own, reduction="sum") / max(1, len(rows))
