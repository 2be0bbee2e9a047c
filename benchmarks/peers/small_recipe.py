"""A model that takes next to no time, for measuring what is around it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Small:
    """64 random features, ten classes."""

    def build_model(self) -> nn.Module:
        """The model of the peers' loops."""
        return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def build_datasets(self) -> tuple[Any, None]:
        """A fixed set of random samples; nothing is learned from them."""
        generator = torch.Generator().manual_seed(0)
        x, y = torch.randn(1024, 64, generator=generator), torch.randint(10, (1024,), generator=generator)
        return [{"x": x[i], "y": y[i]} for i in range(len(x))], None

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy."""
        return nn.functional.cross_entropy(model(batch["x"]), batch["y"]), {}
