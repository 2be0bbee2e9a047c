"""Sums over many elements: the same from run to run, and as exact as their result is."""

from __future__ import annotations

import torch
from torch import Tensor

_ROW = 2**9
"""Elements that are added in the type of the tensor before float64 takes over."""


def sum_of_squares(a: Tensor) -> Tensor:
    """||a||^2 as a scalar in float64, without a copy of it in float64.

    A type below float32 is widened first: its squares overflow.
    """
    flat = _wide(a).reshape(-1)
    whole = flat.numel() // _ROW * _ROW
    rows = torch.linalg.vector_norm(flat[:whole].view(-1, _ROW), dim=1)
    rest = torch.linalg.vector_norm(flat[whole:])
    total: Tensor = rows.double().square().sum() + rest.double().square()
    return total


def sum_of_products(a: Tensor, b: Tensor) -> Tensor:
    """<a, b> as a scalar in float64; tensors of one shape."""
    flat = (_wide(a) * _wide(b)).reshape(-1)
    whole = flat.numel() // _ROW * _ROW
    return flat[:whole].view(-1, _ROW).sum(dim=1).sum(dtype=torch.float64) + flat[whole:].sum().double()


def squares(a: Tensor) -> Tensor:
    """The squares of the elements, in float32 at least."""
    return _wide(a).square()


def sums_along(a: Tensor, dim: int) -> Tensor:
    """Sums along one dimension, which is kept with size 1, in float64; zeros where it is empty."""
    dim %= a.dim()
    num_runs = a.shape[dim] // _ROW
    whole = num_runs * _ROW
    runs = a.narrow(dim, 0, whole).unflatten(dim, (num_runs, _ROW)).sum(dim + 1)
    rest = a.narrow(dim, whole, a.shape[dim] - whole).sum(dim, keepdim=True)
    total: Tensor = runs.double().sum(dim, keepdim=True) + rest.double()
    return total


def _wide(a: Tensor) -> Tensor:
    return a if a.dtype in (torch.float32, torch.float64) else a.float()
