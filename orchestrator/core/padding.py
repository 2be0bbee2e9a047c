"""Whether the micro-batch under way counts: layers that talk to other ranks are run for padding too."""

from __future__ import annotations


class MicroBatchUnderWay:
    """What layers may know of the micro-batch that this process computes, from its forward to the next one's."""

    def __init__(self) -> None:
        self.is_padding = False
        """Whether its weight is 0: it only keeps this rank in step with the others."""


UNDER_WAY = MicroBatchUnderWay()
"""This process's. A backward may run in other threads than its forward, so this is no thread's own."""
