"""The digits of ``jobs/digits`` with a metric that tells which samples a gradient was of."""

from __future__ import annotations

import time

import datasets
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from jobs.digits.recipe import Digits

CODE_BITS = 19
"""Sums of 32 such codes are exact in float32, in which metrics travel, and so are their means."""


def codes(num_images: int) -> NDArray[np.int64]:
    """A random number for each training image."""
    return np.random.default_rng(0).integers(2**CODE_BITS, size=num_images)


class CountedDigits(Digits):
    """Every loss also gives the mean ``code`` of its samples, and sleeps before.

    Args:
        sleep_s: seconds that each loss takes longer.
        num_train_images: as of ``Digits``.
    """

    def __init__(self, sleep_s: float, num_train_images: int) -> None:
        super().__init__(hidden=8, num_train_images=num_train_images)
        self.sleep_s = sleep_s

    def build_datasets(self) -> tuple[datasets.Dataset, datasets.Dataset]:
        """See ``Digits``; the training images have a column ``code``."""
        train, held_out = super().build_datasets()
        coded = train.with_format(None).add_column("code", codes(self.num_train_images))
        return coded.with_format("torch", ["pixels", "label", "code"]), held_out

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """See ``Digits``; the metric ``code`` too."""
        time.sleep(self.sleep_s)
        loss, metrics = super().loss(model, batch)
        return loss, {**metrics, "code": batch["code"].to(torch.float64).mean()}

    def evaluate(self, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """See ``Digits``."""
        loss, metrics = super().loss(model, batch)
        return {"loss": loss, **metrics}
