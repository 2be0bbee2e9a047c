"""What `sharpness.py` and `adversarial.py` train: two small nets on scikit-learn's digits."""

from __future__ import annotations

from typing import Any

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional

NUM_CLASSES = 10
Rows = list[dict[str, Tensor]]


class NoisyDigits:
    """512 images to train on, a fifth of them with a wrong label, and an MLP that can learn them by heart.

    Args:
        seed: of the wrong labels.
        validation: whether 400 of the images that are left are held out, or the other 885.
    """

    def __init__(self, seed: int = 0, validation: bool = False) -> None:
        self.seed = seed
        self.validation = validation

    def build_model(self) -> nn.Module:
        """Images (batch, 64) in [0, 1] to logits (batch, 10)."""
        hidden = [layer for width in (64, 128) for layer in (nn.Linear(width, 128), nn.LayerNorm(128), nn.ReLU())]
        return nn.Sequential(*hidden, nn.Linear(128, NUM_CLASSES))

    def build_datasets(self) -> tuple[Rows, Rows]:
        """The same images for every seed."""
        images, labels = load_digits(return_X_y=True)
        train, rest, train_labels, rest_labels = _split(images, labels, len(images) - 512)
        validation, test, validation_labels, test_labels = _split(rest, rest_labels, 885)
        generator = torch.Generator().manual_seed(self.seed)
        is_wrong = torch.rand(512, generator=generator) < 0.2
        wrong = (torch.tensor(train_labels) + torch.randint(1, NUM_CLASSES, (512,), generator=generator)) % NUM_CLASSES
        held_out = (validation, validation_labels) if self.validation else (test, test_labels)
        return _rows(train, torch.where(is_wrong, wrong, torch.tensor(train_labels))), _rows(*held_out)

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean cross-entropy in nats, and the accuracy on this batch."""
        return _loss(model(batch["image"]), batch)


class PlainDigits:
    """1,437 images to train on and 360 held out, a convolutional net with batch norm.

    Args:
        validation: whether 287 of the images to train on are held out in their place.
    """

    def __init__(self, validation: bool = False) -> None:
        self.validation = validation

    def build_model(self) -> nn.Module:
        """Images (batch, 64) in [0, 1] to logits (batch, 10)."""
        sizes = [(1, 24, 1), (24, 48, 2), (48, 48, 1)]
        blocks = [
            layer
            for before, width, stride in sizes
            for layer in (nn.Conv2d(before, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        ]
        head = [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(48 * 4, NUM_CLASSES)]
        return nn.Sequential(nn.Unflatten(1, (1, 8, 8)), *blocks, *head)

    def build_datasets(self) -> tuple[Rows, Rows]:
        """The same split for every seed."""
        images, labels = load_digits(return_X_y=True)
        train, held_out, train_labels, held_out_labels = _split(images, labels, 360)
        if self.validation:
            train, held_out, train_labels, held_out_labels = _split(train, train_labels, 287)
        return _rows(train, train_labels), _rows(held_out, held_out_labels)

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean cross-entropy in nats, and the accuracy on this batch."""
        return _loss(model(batch["image"]), batch)


def _split(images: Any, labels: Any, num_held_out: int) -> Any:
    return train_test_split(images, labels, test_size=num_held_out, random_state=0, stratify=labels)


def _rows(images: Any, labels: Any) -> Rows:
    pixels, classes = torch.tensor(images / 16).float(), torch.as_tensor(labels)
    return [{"image": image, "label": label} for image, label in zip(pixels, classes, strict=True)]


def _loss(logits: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    accuracy = (logits.argmax(dim=1) == batch["label"]).float().mean()
    return functional.cross_entropy(logits, batch["label"]), {"accuracy": accuracy}
