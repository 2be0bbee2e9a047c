"""What `ghost_norm.py` trains: a deep net of linear layers and a convolutional one, on scikit-learn's digits."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional

NUM_TRAIN = 1024
NUM_CLASSES = 10
WIDTH = 128
CHANNELS = (16, 32, 32)
GROUPS = 4


class Digits:
    """1,024 images to train on and 773 held out, stratified, the same for every seed; pixels in [0, 1].

    Args:
        net: `dense`, three layers of 128 with batch norm; `convolutional`, three of 16, 32 and 32 channels.
        norm: of the convolutional net, `batch` or `group` with 4 groups.
        noise: share of the training images that are labeled as another class.
        noise_seed: which images these are, and as what.
    """

    def __init__(self, net: str = "dense", norm: str = "batch", noise: float = 0.0, noise_seed: int = 0) -> None:
        self.net = net
        self.norm = norm
        self.noise = noise
        self.noise_seed = noise_seed

    def build_model(self) -> nn.Module:
        """Images `(batch, 64)` to logits `(batch, 10)`."""
        return dense() if self.net == "dense" else convolutional(self.norm)

    def build_datasets(self) -> tuple[Any, Any]:
        """Training and held-out images."""
        images, labels = load_digits(return_X_y=True)
        split = train_test_split(images / 16, labels, train_size=NUM_TRAIN, random_state=0, stratify=labels)
        train_images, eval_images, train_labels, eval_labels = split
        train_labels = with_noise(train_labels, self.noise, self.noise_seed)
        return Rows(train_images, train_labels), Rows(eval_images, eval_labels)

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean cross-entropy in nats, and the accuracy on this batch."""
        logits = model(batch["image"])
        accuracy = (logits.argmax(dim=1) == batch["label"]).float().mean()
        return functional.cross_entropy(logits, batch["label"]), {"accuracy": accuracy}


class Rows:
    """Images and labels."""

    def __init__(self, images: Any, labels: Any) -> None:
        self._images = torch.tensor(images, dtype=torch.float32)
        self._labels = torch.tensor(labels)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"image": self._images[index], "label": self._labels[index]}


def with_noise(labels: Any, share: float, seed: int) -> Any:
    """Labels of which a share is another class, each other class alike."""
    generator = np.random.default_rng(seed)
    chosen = generator.permutation(len(labels))[: round(share * len(labels))]
    noisy = labels.copy()
    noisy[chosen] = (labels[chosen] + generator.integers(1, NUM_CLASSES, len(chosen))) % NUM_CLASSES
    return noisy


def dense() -> nn.Module:
    """64, three times 128, 10."""
    widths = (64, WIDTH, WIDTH, WIDTH)
    layers = [
        layer
        for inputs, outputs in pairwise(widths)
        for layer in (nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs), nn.ReLU())
    ]
    return nn.Sequential(*layers, nn.Linear(WIDTH, NUM_CLASSES))


def convolutional(norm: str) -> nn.Module:
    """Three 3x3 convolutions, the second of stride 2, and a linear layer."""
    layers: list[nn.Module] = [nn.Unflatten(1, (1, 8, 8))]
    for inputs, outputs, stride in zip((1, *CHANNELS), CHANNELS, (1, 2, 1), strict=False):
        normalization = nn.BatchNorm2d(outputs) if norm == "batch" else nn.GroupNorm(GROUPS, outputs)
        layers += [nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False), normalization, nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(CHANNELS[-1] * 16, NUM_CLASSES))
