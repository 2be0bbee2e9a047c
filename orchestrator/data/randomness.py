"""Random numbers of user data code: keyed by where the samples stand, apart from those of the training."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

AUGMENTATION, EVALUATION, SHARD_ORDER, BLOCK_ORDER, STREAM_READ, STREAM_COLLATE, PHASE = range(1, 8)
"""What a stream of random numbers is for; keeps them apart from each other and from the global order (0 keys)."""


_GENERATORS = threading.RLock()
"""The generators are the whole process's, and several trainings may share one."""


def keyed_sequence(seed: int, purpose: int, *keys: int) -> np.random.SeedSequence:
    """The seeds of one purpose at one place; ``keys`` are non-negative."""
    return np.random.SeedSequence([seed, *keys], spawn_key=(purpose,))


def phase_seed(seed: int, phase: int) -> int:
    """Seed of a phase's data, phases counted from 0: the job's own in the first, another one in every further."""
    return seed if phase == 0 else int(keyed_sequence(seed, PHASE, phase).generate_state(1)[0])


@contextmanager
def isolated_randomness(sequence: np.random.SeedSequence) -> Iterator[None]:
    """Seed Python's, NumPy's and torch's CPU generators for the block and put their states back after it.

    Generators of accelerators are left alone: data code runs on the CPU, and reading their state would wait for them.
    """
    words = sequence.generate_state(3)
    with _GENERATORS:
        states = random.getstate(), np.random.get_state(), torch.get_rng_state()
        random.seed(int(words[0]))
        np.random.seed(words[1])
        torch.default_generator.manual_seed(int(words[2]))
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
            torch.set_rng_state(states[2])
