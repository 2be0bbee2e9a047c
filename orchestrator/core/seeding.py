"""Random numbers keyed by what they are for, so that a resumed step draws what the undisturbed step drew."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

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


class Draws:
    """Where the generators stand, so that what is computed next can be computed again with the same random numbers.

    Args:
        device: whose generator may be drawn from, beside those of Python, NumPy and torch's CPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._states = random.getstate(), np.random.get_state(), torch.get_rng_state()
        self._of_device = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    @contextmanager
    def again(self) -> Iterator[None]:
        """Draw the same numbers in the block, and go on after it as if nothing had been drawn in it."""
        present = Draws(self._device)
        self._restore()
        try:
            yield
        finally:
            present._restore()

    def have_moved(self) -> bool:
        """Whether anything has been drawn since."""
        present = Draws(self._device)
        of_device = self._of_device is None or present._of_device is None or self._of_device.equal(present._of_device)
        return not (
            self._states[0] == present._states[0]
            and _same(self._states[1], present._states[1])
            and self._states[2].equal(present._states[2])
            and of_device
        )

    def _restore(self) -> None:
        random.setstate(self._states[0])
        np.random.set_state(self._states[1])
        torch.set_rng_state(self._states[2])
        if self._of_device is not None:
            torch.cuda.set_rng_state(self._of_device, self._device)


def _same(one: Any, other: Any) -> bool:
    """Whether two states of NumPy's generator are equal."""
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
