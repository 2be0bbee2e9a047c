"""Which tensors take part in weight decay."""

from __future__ import annotations

from typing import Any

from torch import nn


def decay_groups(model: nn.Module, weight_decay: float, *, decay_one_dimensional: bool) -> list[dict[str, Any]]:
    """Split trainable parameters into a decayed and an undecayed group, in the model's own order; no group is empty.

    Biases and normalization gains have at most one dimension and are left out of the decay unless asked for.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decayed = [p for p in trainable if decay_one_dimensional or p.dim() > 1]
    undecayed = [p for p in trainable if not decay_one_dimensional and p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": undecayed, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
