"""What a shard has received and not yet used: one array for each message, dropped as soon as its job is decided."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.core.served import MessageKey

_BF16_EXPONENT = np.uint16(0x7F80)
_NUM_DECIDED = 4096
"""Decided jobs that are remembered one by one; schemes decide jobs almost in order, so older ones are decided too."""


def is_finite(message: NDArray[Any]) -> bool:
    """Whether every element is a number; bfloat16 travels as its bits in uint16."""
    if message.dtype == np.uint16:
        return not bool(np.any((message & _BF16_EXPONENT) == _BF16_EXPONENT))
    with np.errstate(over="ignore", invalid="ignore"):
        total = np.dot(message, message)
    # One pass without a temporary array; only where it overflows is every element looked at.
    return bool(np.isfinite(total)) or bool(np.isfinite(message).all())


class MessageStore:
    """Messages by (job, worker, slot). ``put`` is called by several threads, the rest by the training's."""

    def __init__(self) -> None:
        self._messages: dict[tuple[int, int, int], NDArray[Any]] = {}
        self._decided: set[int] = set()
        self._lock = threading.Lock()

    def put(self, key: MessageKey, message: NDArray[Any]) -> bool:
        """Take a message; False where it is refused for not being finite.

        One whose job is decided is dropped without a word: nobody waits for it.
        """
        if not is_finite(message):
            return False
        with self._lock:
            if not self._is_decided(key.job):
                self._messages[key.job, key.sender.worker, key.slot] = message
        return True

    def get(self, job: int, worker: int, slot: int) -> NDArray[Any]:
        """A message that has arrived."""
        with self._lock:
            return self._messages[job, worker, slot]

    def decide(self, job: int) -> None:
        """Drop the messages of a job, and those that still come."""
        with self._lock:
            self._decided.add(job)
            if len(self._decided) > _NUM_DECIDED:
                self._decided.remove(min(self._decided))
            for key in [key for key in self._messages if self._is_decided(key[0])]:
                del self._messages[key]

    def _is_decided(self, job: int) -> bool:
        return job in self._decided or (len(self._decided) == _NUM_DECIDED and job < min(self._decided))

    def __len__(self) -> int:
        return len(self._messages)
