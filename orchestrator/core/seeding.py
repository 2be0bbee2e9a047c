"""Random numbers keyed by what they are for, so that a resumed step draws what the undisturbed step drew."""

from __future__ import annotations

import random

import numpy as np
import torch


def seed_everything(seed: int, *keys: int) -> None:
    """Seed Python, NumPy and torch (every device) from a seed and any number of non-negative keys.

    The loop calls it before each step with (step, rank): no generator state needs to be saved in a checkpoint.
    """
    words = np.random.SeedSequence([seed, *keys]).generate_state(2, dtype=np.uint64)
    torch.manual_seed(int(words[0]))
    random.seed(int(words[0]))
    np.random.seed(int(words[1]) % 2**32)
