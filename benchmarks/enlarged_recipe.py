"""What `modulators_gpu.py` trains: a convolutional net that keeps a GPU busy, on scikit-learn's digits."""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

NUM_CLASSES = 10
SIDE = 8
"""Pixels of an image, in each direction."""


class EnlargedDigits:
    """Digits enlarged within the model, a backbone of convolutions with batch norm, and a head.

    Args:
        scale: times that images are enlarged in each direction.
        widths: channels after each convolution; every second one halves the image.
    """

    def __init__(self, scale: int = 8, widths: tuple[int, ...] = (64, 128, 128, 256, 256)) -> None:
        self.scale = scale
        self.widths = widths

    def build_model(self) -> nn.Module:
        """Images (batch, 64) in [0, 1] to logits (batch, 10)."""
        blocks: list[nn.Module] = []
        for index, (before, width) in enumerate(zip((1, *self.widths), self.widths, strict=False)):
            convolution = nn.Conv2d(before, width, 3, stride=1 + index % 2, padding=1, bias=False)
            blocks += [convolution, nn.BatchNorm2d(width), nn.ReLU()]
        backbone = nn.Sequential(nn.Unflatten(1, (1, SIDE, SIDE)), nn.Upsample(scale_factor=self.scale), *blocks)
        head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(self.widths[-1], NUM_CLASSES))
        return nn.Sequential(backbone, head)

    def build_datasets(self) -> tuple[list[dict[str, Tensor]], None]:
        """All images; none are held out."""
        images, labels = load_digits(return_X_y=True)
        pixels, classes = torch.tensor(images / 16).float(), torch.as_tensor(labels)
        return [{"image": image, "label": label} for image, label in zip(pixels, classes, strict=True)], None

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean cross-entropy in nats."""
        return functional.cross_entropy(model(batch["image"]), batch["label"]), {}
