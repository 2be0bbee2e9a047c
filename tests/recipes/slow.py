"""The digits of ``tiny.py``, with one rank that is slow for a while."""

import os
import time

from tiny import Digits


class SlowRank(Digits):
    """All ranks sleep in each loss, one of them longer.

    Args:
        slow_rank: the rank that sleeps longer.
        first, last: calls of ``loss`` (from 1) in which it does.
        pace_s: seconds that every loss sleeps.
        slow_s: seconds that the slow rank's loss sleeps then.
    """

    def __init__(self, slow_rank: int, first: int, last: int, pace_s: float = 0.01, slow_s: float = 0.04) -> None:
        super().__init__()
        self.slow_rank, self.first, self.last = slow_rank, first, last
        self.pace_s, self.slow_s = pace_s, slow_s

    def loss(self, model, batch):
        is_slow = int(os.environ["RANK"]) == self.slow_rank and self.first <= self.num_calls + 1 <= self.last
        time.sleep(self.slow_s if is_slow else self.pace_s)
        return super().loss(model, batch)
