"""Pairs of embeddings divided among ranks in every way, the losses on them, and the same from equations in NumPy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from orchestrator.core.coupling import Coupling, coupled
from orchestrator.losses import sigmoid_contrastive, softmax_contrastive

WIDTH, INPUTS = 5, 7
Loss = Callable[..., Tensor]
LOSSES: dict[str, Loss] = {
    "softmax": lambda x, y, scale, bias: softmax_contrastive(x, y, scale) + 0 * bias,
    "one-sided softmax": lambda x, y, scale, bias: softmax_contrastive(x, y, scale, symmetric=False) + 0 * bias,
    "sigmoid, shifted": lambda x, y, scale, bias: sigmoid_contrastive(x, y, scale, bias),
    "sigmoid, both ways": lambda x, y, scale, bias: sigmoid_contrastive(x, y, scale, bias, exchange="bidirectional"),
}
SIZES: dict[int, tuple[tuple[int, ...], ...]] = {
    1: ((9,),),
    2: ((5, 4), (1, 6)),
    3: ((3, 3, 2), (4, 1, 1)),
    4: ((3, 3, 2, 2), (1, 5, 2, 1)),
}
"""Samples of each rank, by the number of ranks."""


def weights(dtype: torch.dtype) -> dict[str, Tensor]:
    """Two linear towers, and t and b as SigLIP has them."""
    generator = torch.Generator().manual_seed(3)
    made = {name: torch.randn(INPUTS, WIDTH, generator=generator, dtype=torch.float64) for name in ("left", "right")}
    made |= {"log_scale": torch.tensor(1.3), "bias": torch.tensor(-1.7)}
    return {name: value.to(dtype).requires_grad_() for name, value in made.items()}


def views(num_samples: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    first = torch.randn(num_samples, INPUTS, generator=generator, dtype=torch.float64)
    second = first + 0.5 * torch.randn(num_samples, INPUTS, generator=generator, dtype=torch.float64)
    return first.to(dtype), second.to(dtype)


def loss_of(loss: Loss, w: Mapping[str, Tensor], first: Tensor, second: Tensor) -> Tensor:
    x, y = functional.normalize(first @ w["left"], dim=1), functional.normalize(second @ w["right"], dim=1)
    return loss(x, y, w["log_scale"].exp(), w["bias"])


def dense(name: str, num_samples: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Value and gradients of one process that has all samples and the whole matrix, in plain torch."""
    w = weights(dtype)
    value = loss_of(MATRICES[name], w, *views(num_samples, dtype))
    value.backward()
    return {"value": value.detach(), **{key: tensor.grad for key, tensor in w.items() if tensor.grad is not None}}


def softmax_matrix(x: Tensor, y: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    logits = scale * x @ y.T
    return (one_sided_matrix(x, y, scale, bias) - logits.log_softmax(0).diagonal().mean()) / 2


def one_sided_matrix(x: Tensor, y: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return -(scale * x @ y.T).log_softmax(1).diagonal().mean() + 0 * bias


def sigmoid_matrix(x: Tensor, y: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    z = 2 * torch.eye(len(x), dtype=x.dtype) - 1
    return torch.log1p(torch.exp(-z * (scale * x @ y.T + bias))).sum() / len(x)


MATRICES: dict[str, Loss] = {
    "softmax": softmax_matrix,
    "one-sided softmax": one_sided_matrix,
    "sigmoid, shifted": sigmoid_matrix,
    "sigmoid, both ways": sigmoid_matrix,
}


def in_numpy(name: str, x: NDArray[Any], y: NDArray[Any], scale: float, bias: float) -> float:
    """The loss from its equations, pair by pair."""
    size = len(x)

    def told(rows: NDArray[Any], columns: NDArray[Any]) -> float:
        terms = []
        for i in range(size):
            logits = [scale * float(rows[i] @ columns[j]) for j in range(size)]
            terms.append(np.log(sum(np.exp(logit) for logit in logits)) - logits[i])
        return float(np.mean(terms))

    if name == "one-sided softmax":
        return told(x, y)
    if name == "softmax":
        return (told(x, y) + told(y, x)) / 2
    terms = []
    for i in range(size):
        for j in range(size):
            z = 1 if i == j else -1
            terms.append(np.log1p(np.exp(-z * (scale * float(x[i] @ y[j]) + bias))))
    return sum(terms) / size


def on_this_rank(cases: Sequence[tuple[str, tuple[int, ...], torch.dtype, int]]) -> list[dict[str, Tensor]]:
    """Values and gradients of several cases as engines make them: weighed by shares of the batch, summed over ranks.

    Each case is the loss's name, samples of each rank, the element type, and how many of the last ranks only hold a
    padding sample.
    """
    return [_case(*case) for case in cases]


def _case(name: str, sizes: tuple[int, ...], dtype: torch.dtype, num_padding: int) -> dict[str, Tensor]:
    rank = dist.get_rank()
    total = sum(sizes[: len(sizes) - num_padding])
    w, everything = weights(dtype), views(total, dtype)
    start = sum(sizes[:rank])
    counts = rank < len(sizes) - num_padding
    # As a rank without samples is served: some sample of the batch, which counts for nothing.
    first, second = (rows[start : start + sizes[rank]] if counts else rows[:1] for rows in everything)
    with coupled(Coupling(counts=counts)):
        value = loss_of(LOSSES[name], w, first, second)
    weighted = value * (sizes[rank] / total if counts else 0.0)
    weighted.backward()
    results = {"value": weighted.detach(), **{key: tensor.grad for key, tensor in w.items() if tensor.grad is not None}}
    for tensor in results.values():
        dist.all_reduce(tensor)
    return results
