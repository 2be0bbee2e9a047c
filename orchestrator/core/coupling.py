"""With whose samples a loss may couple those that it is given: told by whoever computes, asked by `losses`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Coupling:
    """What a loss over all samples of a batch can count on while it is called."""

    spans_ranks: bool = True
    """Whether all ranks of the process group call it side by side for one batch; else each is on its own."""
    counts: bool = True
    """Whether the samples belong to the batch; padding, which keeps ranks in step, does not."""
    refusal: str = ""
    """Why the samples of a batch are never together here, as the end of a sentence; empty where they are."""


TOGETHER = Coupling()
"""All ranks of the process group, with all their samples."""
_coupling: ContextVar[Coupling] = ContextVar("coupling", default=TOGETHER)


def present_coupling() -> Coupling:
    """What holds now; in a program that has no engine of ours, all ranks of its process group compute together."""
    return _coupling.get()


@contextmanager
def coupled(how: Coupling) -> Iterator[None]:
    """Let it hold in the block, for this thread."""
    token = _coupling.set(how)
    try:
        yield
    finally:
        _coupling.reset(token)
