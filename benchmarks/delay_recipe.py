"""What `delay_sweep.py` trains: a small net with group norm on scikit-learn's digits as they are."""

from __future__ import annotations

from typing import Any

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional

NUM_HELD_OUT = 360


class Digits:
    """1,437 images to train on and 360 held out, stratified; two convolutions, no batch norm, no augmentation."""

    def build_model(self) -> nn.Module:
        """Images (batch, 1, 8, 8) in [0, 1] to logits (batch, 10)."""
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.GroupNorm(4, 16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.GroupNorm(4, 32),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * 16, 10),
        )

    def build_datasets(self) -> tuple[Any, Any]:
        """The same split for every seed."""
        images, labels = load_digits(return_X_y=True)
        split = train_test_split(images / 16, labels, test_size=NUM_HELD_OUT, random_state=0, stratify=labels)
        train_images, eval_images, train_labels, eval_labels = (torch.tensor(part) for part in split)
        return Rows(train_images.float(), train_labels), Rows(eval_images.float(), eval_labels)

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean cross-entropy in nats, and the accuracy on this batch."""
        logits = model(batch["image"].view(-1, 1, 8, 8))
        accuracy = (logits.argmax(dim=1) == batch["label"]).float().mean()
        return functional.cross_entropy(logits, batch["label"]), {"accuracy": accuracy}


class Rows:
    """Images and labels that are read many at a time."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self._images = images
        self._labels = labels

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"image": self._images[index], "label": self._labels[index]}
