"""Data sets and plans of the data tests; importable by loader processes and gloo ranks, which test modules are too."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

from orchestrator.core.values import BatchPlan, DataPosition
from orchestrator.data.loader import MapStyleData

CPU = torch.device("cpu")
UNEVEN = (13, 13, 22, 22, 9)
"""Global batch sizes of successive steps, divisible by nothing."""


class Numbers:
    """Sample i is the number i."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> int:
        if not 0 <= index < self.length:
            raise IndexError(index)
        return index


class NoisyNumbers(Numbers):
    """Sample i is i and three random numbers, one of each library."""

    def __getitem__(self, index: int) -> Any:
        return index, random.random(), float(np.random.rand()), float(torch.rand(()))


class BrokenNumbers(Numbers):
    """Raises at sample 7."""

    def __getitem__(self, index: int) -> int:
        if index == 7:
            raise KeyError("the seventh sample is bad")
        return index


def plan(global_batch_size: int, micro_batch_size: int | None = 4, lr_factor: float = 1.0) -> BatchPlan:
    return BatchPlan(global_batch_size=global_batch_size, micro_batch_size=micro_batch_size, lr_factor=lr_factor)


def map_style(dataset: Any, *, rank: int = 0, world_size: int = 1, samples: int = 0, **options: Any) -> MapStyleData:
    settings = {"collate": None, "seed": 5, "total_samples": 10**6, **options}
    return MapStyleData(
        dataset, rank=rank, world_size=world_size, position=DataPosition(samples=samples), device=CPU, **settings
    )


def ids_and_weights(micro_batches: Any) -> list[tuple[list[int], float]]:
    return [(micro.batch.tolist(), micro.weight) for micro in micro_batches]
