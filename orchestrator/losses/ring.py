"""Rows that go round the workers: each sends what it holds to its neighbor, gradients go back the way they came."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
import torch.distributed as dist
from torch import Tensor

from orchestrator.core.errors import RecipeError
from orchestrator.losses.peers import Peers

Route = Literal["shift", "bidirectional"]
_ONWARD, _BACK = 1, -1


def arrivals(rows: Tensor, peers: Peers, route: Route) -> Iterator[Tensor]:
    """The rows of every other rank, one after the other, each of shape [its samples, width].

    A row's gradient is the sum of what it is on every rank. A collective, and so is its backward.

    Args:
        rows: this rank's.
        peers: of the batch.
        route: ``shift``, to the next rank only; ``bidirectional``, both ways at once.

    Raises:
        RecipeError: where the route is another one.
    """
    if route not in get_args(Route):
        raise RecipeError(f"exchange: {route!r}. Legal: {', '.join(get_args(Route))}.")
    held = {_ONWARD: rows, _BACK: rows}
    for number, directions in enumerate(_hops(peers.world_size, route), start=1):
        moves = tuple(_move(peers, direction, number) for direction in directions)
        arrived = _Pass.apply(moves, *(held[direction] for direction in directions))  # type: ignore[no-untyped-call]
        held.update(zip(directions, arrived, strict=True))
        yield from arrived


def _hops(world_size: int, route: Route) -> list[tuple[int, ...]]:
    """The directions in which rows move, hop by hop."""
    if route == "shift":
        return [(_ONWARD,)] * (world_size - 1)
    # Of an even number of ranks the one opposite is met by one way only.
    both: list[tuple[int, ...]] = [(_ONWARD, _BACK)] * ((world_size - 1) // 2)
    return both if world_size % 2 else [*both, (_ONWARD,)]


@dataclass(frozen=True, slots=True)
class _Move:
    """Where rows go, where others come from, and how many."""

    to: int
    source: int
    num_sent: int
    num_received: int

    @property
    def back(self) -> _Move:
        return _Move(self.source, self.to, self.num_received, self.num_sent)


def _move(peers: Peers, direction: int, number: int) -> _Move:
    """What this rank does in the hop of this number, from 1."""
    size = peers.world_size
    return _Move(
        to=(peers.rank + direction) % size,
        source=(peers.rank - direction) % size,
        num_sent=peers.num_rows[(peers.rank - direction * (number - 1)) % size],
        num_received=peers.num_rows[(peers.rank - direction * number) % size],
    )


class _Pass(torch.autograd.Function):
    """One hop of one or two sets of rows."""

    @staticmethod
    def forward(ctx: Any, moves: Sequence[_Move], *sent: Tensor) -> tuple[Tensor, ...]:
        ctx.moves = moves
        received = [rows.new_empty(move.num_received, rows.shape[1]) for move, rows in zip(moves, sent, strict=True)]
        # Nobody sends or waits for nothing: some backends know no empty messages.
        messages = [
            *(
                dist.P2POp(dist.isend, rows.contiguous(), move.to)
                for move, rows in zip(moves, sent, strict=True)
                if move.num_sent
            ),
            *(
                dist.P2POp(dist.irecv, rows, move.source)
                for move, rows in zip(moves, received, strict=True)
                if move.num_received
            ),
        ]
        for work in dist.batch_isend_irecv(messages) if messages else ():
            work.wait()
        return tuple(received)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, *tuple[Tensor, ...]]:
        return None, *_Pass.apply(tuple(move.back for move in ctx.moves), *gradients)  # type: ignore[no-untyped-call]
