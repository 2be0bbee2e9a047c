"""A recipe small enough to train in a blink: an MLP on scikit-learn's digits, no batch norm, no dropout."""

import os
import time
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F


class Digits:
    """Real 8x8 digits, the first 1,500 to train on.

    Args:
        hidden: width of the hidden layer.
        sleep_s: seconds that each loss takes longer.
        fail_at: call of ``loss`` (from 1) that raises, or 0.
        batch_norm: put one in.
        dropout: probability of a dropout.
        record: append the ids of each loss to ``ids.<rank>`` beside this file.
        num_train: samples to train on; evaluation keeps the last 297.
        smoothing: label smoothing of the loss.
    """

    def __init__(
        self,
        hidden: int = 16,
        sleep_s: float = 0.0,
        fail_at: int = 0,
        batch_norm: bool = False,
        dropout: float = 0.0,
        record: bool = False,
        num_train: int = 1500,
        smoothing: float = 0.0,
    ) -> None:
        self.hidden = hidden
        self.sleep_s = sleep_s
        self.fail_at = fail_at
        self.batch_norm = batch_norm
        self.dropout = dropout
        self.num_calls = 0
        self.record = record
        self.num_train = num_train
        self.smoothing = smoothing

    def build_model(self) -> nn.Module:
        norm = nn.BatchNorm1d(self.hidden) if self.batch_norm else nn.LayerNorm(self.hidden)
        return nn.Sequential(
            nn.Linear(64, self.hidden), norm, nn.ReLU(), nn.Dropout(self.dropout), nn.Linear(self.hidden, 10)
        )

    def build_datasets(self):
        bunch = load_digits()
        rows = [
            {"id": i, "image": torch.tensor(image, dtype=torch.float32) / 16, "label": int(label)}
            for i, (image, label) in enumerate(zip(bunch.data, bunch.target, strict=True))
        ]
        return rows[: self.num_train], rows[1500:]

    def loss(self, model, batch):
        self.num_calls += 1
        if self.num_calls == self.fail_at:
            raise ValueError("the digits are blurred")
        time.sleep(self.sleep_s)
        if self.record:
            with (Path(__file__).parent / f"ids.{os.environ.get('RANK', '0')}").open("a", encoding="utf-8") as stream:
                stream.write(" ".join(str(int(i)) for i in batch["id"]) + "\n")
        metrics = self.evaluate(model, batch)
        return metrics.pop("loss"), metrics

    def evaluate(self, model, batch):
        logits = model(batch["image"])
        accuracy = (logits.argmax(1) == batch["label"]).float().mean()
        return {
            "loss": F.cross_entropy(logits, batch["label"], label_smoothing=self.smoothing),
            "accuracy": accuracy.detach(),
        }
