"""Gradients as they travel between a worker and a shard: flat NumPy arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def to_wire(flat: Tensor, dtype: str) -> NDArray[Any]:
    """A flat tensor as an array, fp32 (its own type) or bf16; NumPy has no bfloat16, its bits go as uint16."""
    host = flat.detach().cpu()
    if dtype == "bf16":
        bits: NDArray[Any] = host.to(torch.bfloat16).view(torch.uint16).numpy()
        return bits
    array: NDArray[Any] = host.numpy()
    return array


def from_wire(array: NDArray[Any]) -> Tensor:
    """The tensor that ``to_wire`` has sent, over the same memory; not to be written to."""
    tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if array.dtype == np.uint16 else tensor
