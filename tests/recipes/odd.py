"""Sizes that no number of workers divides, and everything that makes a model awkward to divide."""

import os

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

WIDTH = 13


class Block(nn.Module):
    """A residual layer."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.inner = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return x + torch.tanh(self.inner(self.norm(x)))


class OddModel(nn.Module):
    """An MLP of odd sizes with a ModuleList of blocks."""

    def __init__(self, awkward: bool) -> None:
        super().__init__()
        self.inlet = nn.Linear(64, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.outlet = nn.Linear(WIDTH, 10)
        self.spike = nn.Linear(1, 3)
        self.register_buffer("scale", torch.tensor(1.5))
        self.awkward = awkward
        if awkward:
            # Tied inside the list, and between the list and the rest.
            self.blocks[1].inner.weight = self.blocks[0].inner.weight
            self.mixer = nn.Linear(WIDTH, WIDTH, bias=False)
            self.mixer.weight = self.blocks[2].inner.weight
            self.inlet.bias.requires_grad_(False)
            self.blocks[0].norm.weight.requires_grad_(False)
            self.unused = nn.Parameter(torch.ones(5, 3))

    def forward(self, x):
        x = self.inlet(x) * self.scale
        for block in self.blocks:
            x = block(x)
        if self.awkward:
            x = self.mixer(x)
        # One element of its own, for a gradient that overflows in one row of one tensor only.
        return self.outlet(x), self.spike(x.new_ones(1, 1))[0, 0]


class Odd:
    """Real digits.

    Args:
        awkward: tied, frozen and unused parameters.
        overflow_at: call of ``loss`` (from 1) of rank 1 that has one element of its gradient beyond fp16, or 0.
    """

    def __init__(self, awkward: bool = False, overflow_at: int = 0) -> None:
        self.awkward = awkward
        self.overflow_at = overflow_at
        self.num_calls = 0

    def build_model(self) -> nn.Module:
        return OddModel(self.awkward)

    def build_datasets(self):
        bunch = load_digits()
        rows = zip(bunch.data[:500], bunch.target[:500], strict=True)
        samples = [
            {"image": torch.tensor(image, dtype=torch.float32) / 16, "label": int(label)} for image, label in rows
        ]
        return samples, samples[:20]

    def loss(self, model, batch):
        logits, spike = model(batch["image"])
        self.num_calls += 1
        overflows = self.num_calls == self.overflow_at and os.environ["RANK"] == "1"
        loss = F.cross_entropy(logits, batch["label"]) + (1e30 if overflows else 0.0) * spike
        return loss, {"largest": logits.detach().abs().mean()}
