"""Which pieces of a phase's samples are done, being computed, or still to do: every one is accepted exactly once.

A chunk is done only when its gradient is accepted, and the training accepts one together with the update that takes
it. What a checkpoint keeps of the ledger is therefore exactly what its weights have seen. No torch.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Verdict = Literal["accepted", "fenced", "duplicate"]
"""What becomes of a push: fenced is one whose lease has been taken away."""


@dataclass(frozen=True, slots=True)
class _Holder:
    lease: int
    worker: int
    until_s: float


class ChunkLedger:
    """The chunks of one phase.

    Args:
        num_chunks: of the phase.
        state: of ``state_dict``, where it goes on.
    """

    def __init__(self, num_chunks: int, state: Mapping[str, Any] | None = None) -> None:
        done = set() if not state else {*range(state["first"]), *state["done"]}
        self._first = 0
        self._beyond: set[int] = set()
        for chunk in sorted(done):
            self._mark_done(chunk)
        self._num_done = len(done)
        self._num_chunks = num_chunks
        self._to_do = [chunk for chunk in range(num_chunks) if chunk not in done]
        self._leased: dict[int, _Holder] = {}

    @property
    def is_complete(self) -> bool:
        """Whether every chunk is done."""
        return self._num_done == self._num_chunks

    @property
    def num_left(self) -> int:
        """Chunks that are not done."""
        return self._num_chunks - self._num_done

    def lease(self, lease: int, worker: int, until_s: float, *, but: Collection[int] = ()) -> int | None:
        """Give the first chunk that is still to do to a worker; None where there is none at the moment.

        Args:
            lease: number of the lease, never used before.
            worker: who computes it.
            until_s: moment at which the lease ends.
            but: chunks that are left to others.
        """
        left = []
        while self._to_do and self._to_do[0] in but:
            left.append(heapq.heappop(self._to_do))
        chunk = heapq.heappop(self._to_do) if self._to_do else None
        for other in left:
            heapq.heappush(self._to_do, other)
        if chunk is not None:
            self._leased[chunk] = _Holder(lease, worker, until_s)
        return chunk

    def lease_this(self, chunk: int, lease: int, worker: int) -> None:
        """Give a certain chunk to a worker, for as long as it takes; a lease of it before is void."""
        if chunk in self._to_do:
            self._to_do.remove(chunk)
            heapq.heapify(self._to_do)
        self._leased[chunk] = _Holder(lease, worker, float("inf"))

    def commit(self, chunk: int, lease: int) -> Verdict:
        """A gradient of a chunk is there: accepted makes it done."""
        if self._is_done(chunk):
            return "duplicate"
        holder = self._leased.get(chunk)
        if holder is None or holder.lease != lease:
            return "fenced"
        del self._leased[chunk]
        self._mark_done(chunk)
        self._num_done += 1
        return "accepted"

    def release(self, chunk: int, lease: int) -> None:
        """A lease ends without a gradient; nothing where it has ended before."""
        holder = self._leased.get(chunk)
        if holder is not None and holder.lease == lease:
            del self._leased[chunk]
            heapq.heappush(self._to_do, chunk)

    def lose(self, worker: int) -> None:
        """All leases of a worker end."""
        for chunk, holder in [(c, h) for c, h in self._leased.items() if h.worker == worker]:
            self.release(chunk, holder.lease)

    def expire(self, now: float, *, oldest_lease: int) -> list[tuple[int, int]]:
        """End the leases that have lasted too long, or are older than a certain one; their workers and numbers."""
        over = [
            (chunk, holder)
            for chunk, holder in self._leased.items()
            if holder.until_s <= now or holder.lease < oldest_lease
        ]
        for chunk, holder in over:
            self.release(chunk, holder.lease)
        return [(holder.worker, holder.lease) for _, holder in over]

    def next_expiry(self) -> float | None:
        """The moment at which the next lease ends; None where there is none that does."""
        ends = [holder.until_s for holder in self._leased.values() if holder.until_s != float("inf")]
        return min(ends, default=None)

    def state_dict(self) -> dict[str, Any]:
        """What is done, as JSON values: all chunks before ``first``, and those of ``done`` beyond it."""
        return {"first": self._first, "done": sorted(self._beyond)}

    def done(self) -> Iterator[int]:
        """The chunks that are done, in their order."""
        yield from range(self._first)
        yield from sorted(self._beyond)

    def _is_done(self, chunk: int) -> bool:
        return chunk < self._first or chunk in self._beyond

    def _mark_done(self, chunk: int) -> None:
        self._beyond.add(chunk)
        while self._first in self._beyond:
            self._beyond.remove(self._first)
            self._first += 1
