"""A small perceptron on scikit-learn's digits: real data, no dropout, and norms that see one sample at a time."""

from __future__ import annotations

from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

NUM_TRAIN = 1500


class DigitsMlp:
    """Ten classes of 8x8 digits; the first 1,500 to train on, the other 297 to evaluate."""

    def build_model(self) -> nn.Module:
        """64 pixels to 10 logits."""
        return nn.Sequential(nn.Linear(64, 32), nn.LayerNorm(32), nn.ReLU(), nn.Linear(32, 10))

    def build_datasets(self) -> tuple[Any, Any]:
        """Pixels from 0 to 1, and labels."""
        bunch = load_digits()
        images = torch.tensor(bunch.data, dtype=torch.float32) / 16
        rows = [{"x": image, "y": int(label)} for image, label in zip(images, bunch.target, strict=True)]
        return rows[:NUM_TRAIN], rows[NUM_TRAIN:]

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy."""
        return nn.functional.cross_entropy(model(batch["x"]), batch["y"]), {}
