"""A small convolutional net with batch norm on scikit-learn's digits."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F


class Images:
    """Real 8x8 digits, the first 1,500 to train on."""

    def build_model(self) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Conv2d(4, 8, 3, stride=2, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(8 * 16, 10),
        )

    def build_datasets(self):
        bunch = load_digits()
        rows = [
            {"image": torch.tensor(image, dtype=torch.float32).view(1, 8, 8) / 16, "label": int(label)}
            for image, label in zip(bunch.data, bunch.target, strict=True)
        ]
        return rows[:1500], rows[1500:]

    def loss(self, model, batch):
        logits = model(batch["image"])
        accuracy = (logits.argmax(1) == batch["label"]).float().mean()
        return F.cross_entropy(logits, batch["label"]), {"accuracy": accuracy.detach()}
