"""One shard's side of the served exchange: publish its weights, take part in a round, sum what has arrived."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from orchestrator.core.collectives import Collectives
from orchestrator.core.errors import DivergedError
from orchestrator.core.flat_shards import FlatShards
from orchestrator.core.served import ModuleSquares, RoundRequest, Work
from orchestrator.core.values import ExchangeReport
from orchestrator.core.wire import from_wire
from orchestrator.exchange.served.coordinator import Closed, GivenUp
from orchestrator.exchange.served.place import ServedPlace
from orchestrator.exchange.served.publisher import Publisher
from orchestrator.spec.methods.coded import Coded


class ServedExchange:
    """Sums the gradients of workers that pull weights and push messages. Satisfies ``core.protocols.RoundExchange``.

    Each shard owns whole tensors: it publishes their weights, receives their messages and sums them into their
    gradients. The shard of rank 0 also coordinates, and tells the others what to sum.

    Args:
        config: the scheme and when its rounds close.
        collectives: over the shards.
        place: links to the workers and between the shards, and the rounds.
    """

    def __init__(self, config: Coded, collectives: Collectives, place: ServedPlace) -> None:
        self._config = config
        self._collectives = collectives
        self._links = place.links
        self._rounds = place.rounds
        self._place = place
        self._num_steps = 0
        self._changed_buffers: dict[str, NDArray[Any]] = {}
        self._closed: Closed | None = None

    def attach(self, model: nn.Module, shards: FlatShards) -> None:
        """Take charge of the gradients of this shard's parameters."""
        self._publisher = Publisher(self._links.port, self._place.model, model)
        self._flat = shards.weights[self._collectives.rank]
        self._gradient = torch.zeros_like(self._flat)
        self._num_elements = sum(flat.numel() for flat in shards.weights)
        shards.point_gradients_of(self._collectives.rank, self._gradient)
        self._buffers = dict(model.named_buffers())

    def collect(self, request: RoundRequest) -> dict[str, Tensor]:
        """Have the workers compute a step; leaves the sum in the gradients.

        Returns:
            The step's metrics on the shard of rank 0 and zeros elsewhere, so that they sum to the means.

        Raises:
            DivergedError: where gradients are not finite.
        """
        publication, _ = self._publisher.publish(self._num_steps, self._flat, self._changed_buffers)
        closed = None
        if self._rounds is not None:
            work = Work(request=request, weights=publication)
            closed = self._rounds.submit(self._place.model, self._num_steps, work).result()
        self._num_steps += 1
        closed = self._collectives.all_gather_object(closed)[0]
        if isinstance(closed, GivenUp):
            self._links.store.decide(closed.job)
            raise DivergedError(closed.message)
        self._sum(closed)
        self._take_buffers(closed.buffers)
        self._closed = closed
        share = float(self._collectives.rank == 0)
        return {name: torch.tensor(value * share) for name, value in closed.metrics.items()}

    def squares(self) -> ModuleSquares | None:
        """How long the groups' gradients were, module by module, where the request asked for it."""
        return None if self._closed is None else self._closed.squares

    def finish(self) -> ExchangeReport:
        """What the round cost."""
        assert self._closed is not None  # `collect` comes first
        decoded = self._closed.decoded
        ratio = {} if self._rounds is None else self._rounds.facts()
        itemsize = 2 if self._config.message_dtype == "bf16" else self._flat.element_size()
        return ExchangeReport(
            bytes_sent=self._num_elements * itemsize * len(decoded.messages),
            workers_used=len({worker for worker, _ in decoded.messages}),
            facts={"coverage": decoded.coverage, "decode_residual": decoded.residual, **ratio},
        )

    def clear(self) -> None:
        """Zero the gradients."""
        self._gradient.zero_()

    def close(self) -> None:
        """End the workers' rounds."""
        if self._rounds is not None:
            self._rounds.retire(self._place.model)

    def _sum(self, closed: Closed) -> None:
        store, decoded = self._links.store, closed.decoded
        self._gradient.zero_()
        for (worker, slot), coefficient in zip(decoded.messages, decoded.coefficients.tolist(), strict=True):
            message = from_wire(store.get(decoded.job, worker, slot))
            self._gradient.add_(message.to(self._gradient), alpha=coefficient)
        store.decide(decoded.job)

    def _take_buffers(self, changed: Mapping[str, NDArray[Any]]) -> None:
        self._changed_buffers.update(changed)
        for name, array in changed.items():
            self._buffers[name].copy_(torch.from_numpy(array))
