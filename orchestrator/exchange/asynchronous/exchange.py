"""One shard's side of asynchronous training: publish each version, take the pushes of an update, sum them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from orchestrator.core.collectives import Collectives
from orchestrator.core.flat_shards import FlatShards
from orchestrator.core.protocols import Compensation
from orchestrator.core.served import AcceptedPush, Handle, RoundRequest, Update
from orchestrator.core.staleness import Staleness
from orchestrator.core.values import ExchangeReport
from orchestrator.core.wire import from_wire
from orchestrator.exchange.served.place import ServedPlace
from orchestrator.exchange.served.publisher import Publisher, arrays_of
from orchestrator.spec.methods.asynchronous import Asynchronous


class AsynchronousExchange:
    """Applies pushes one update at a time. Satisfies ``core.protocols.RoundExchange`` and ``core.served.UpdateSource``.

    All shards take the same pushes in the same order, so a version is one state of the whole model and a worker never
    reads two versions at once.

    Args:
        config: of the exchange.
        collectives: over the shards.
        place: links to the workers and between the shards.
        staleness: told how old each update's gradients are.
        compensation: asked what to do about it; None is nothing.
    """

    def __init__(
        self,
        config: Asynchronous,
        collectives: Collectives,
        *,
        place: ServedPlace,
        staleness: Staleness,
        compensation: Compensation | None,
    ) -> None:
        self._config = config
        self._collectives = collectives
        self._links = place.links
        self._pushes = place.pushes
        self._place = place
        self._staleness = staleness
        self._compensation = compensation
        self._version = 0
        self._is_published = False
        self._changed: set[str] = set()
        self._versions: dict[int, tuple[Handle, dict[str, NDArray[Any]]]] = {}
        """This shard's flat array and the buffers of each version that a push may still have been computed at."""
        self._update: Update | None = None

    def attach(self, model: nn.Module, shards: FlatShards) -> None:
        """Take charge of the gradients of this shard's parameters."""
        self._model = model
        self._members = shards.members[self._collectives.rank]
        self._flat = shards.weights[self._collectives.rank]
        self._gradient = torch.zeros_like(self._flat)
        self._num_elements = sum(flat.numel() for flat in shards.weights)
        shards.point_gradients_of(self._collectives.rank, self._gradient)
        self._publisher = Publisher(self._links.port, self._place.model, model)
        self._staleness.read_weights = self._read_weights

    def open(self, request: RoundRequest, ledger: Mapping[str, Any]) -> None:
        """See ``UpdateSource``."""
        self._version, self._is_published = request.step, False
        self._buffers = arrays_of(dict(self._model.named_buffers()))
        if self._pushes is not None:
            self._pushes.open(request, ledger)

    def next_update(self) -> Update:
        """See ``UpdateSource``."""
        if not self._is_published:
            self._publish()
        update = None
        if self._pushes is not None:
            update = self._pushes.next_update()
        self._update = self._collectives.all_gather_object(update)[0]
        return self._update

    def ledger(self) -> Mapping[str, Any]:
        """See ``UpdateSource``."""
        return {} if self._pushes is None else self._pushes.ledger()

    def collect(self, request: Update) -> dict[str, Tensor]:
        """Leave the sum of an update's pushes in the gradients.

        Returns:
            The update's metrics on the shard of rank 0 and zeros elsewhere, so that they sum to the means.
        """
        self._gradient.zero_()
        oldest = max(request.pushes, key=lambda push: push.delay)
        for push in request.pushes:
            # As the loop weighs micro-batches: the loss carried the share, and with one push it is 1.
            factor = push.share if self._compensation is None else push.share * self._compensation.factor(push.delay)
            message = from_wire(self._links.store.get(push.key.job, push.key.sender.worker, push.key.slot))
            self._gradient.add_(message.to(self._gradient), alpha=factor)
            self._staleness.observe(push.delay, push.key.sender.worker)
        self._staleness.delay = oldest.delay
        self._read_version = oldest.read_version
        self._take_buffers(request.pushes)
        for job in (*(push.key.job for push in request.pushes), *request.dropped):
            self._links.store.decide(job)
        share = float(self._collectives.rank == 0)
        return {name: torch.tensor(value * share) for name, value in _means(request.pushes).items()}

    def squares(self) -> None:
        """Of the groups of one push nobody asks."""

    def finish(self) -> ExchangeReport:
        """What the update cost, and how old its gradients were."""
        assert self._update is not None  # `next_update` comes first
        itemsize = 2 if self._config.message_dtype == "bf16" else self._flat.element_size()
        num_pushes = len(self._update.pushes)
        facts = {
            **self._update.facts,
            **self._staleness.facts(),
            **({} if self._pushes is None else self._pushes.facts()),
        }
        return ExchangeReport(
            bytes_sent=self._num_elements * itemsize * num_pushes,
            workers_used=len({push.key.sender.worker for push in self._update.pushes}),
            facts=facts,
        )

    def clear(self) -> None:
        """The step has been taken: publish what it has made of the weights."""
        self._version += 1
        if self._pushes is not None:
            self._pushes.observe(self._version)
        self._forget_versions()
        self._publish()

    def close(self) -> None:
        """End the workers' pushes."""
        if self._pushes is not None:
            self._pushes.close(self._staleness)

    def _publish(self) -> None:
        changed = {name: self._buffers[name] for name in self._changed}
        publication, handle = self._publisher.publish(self._version, self._sent_out(), changed)
        self._versions[self._version] = handle, dict(self._buffers)
        self._is_published = True
        if self._pushes is not None:
            self._pushes.publish(publication)

    def _sent_out(self) -> Tensor:
        """What workers are to compute at: the weights, or where the compensation expects them to be."""
        if self._compensation is None:
            return self._flat
        sent = self._flat.detach().clone()
        start = 0
        for _, parameter in self._members:
            offset = self._compensation.offset(parameter)
            if offset is not None:
                sent[start : start + parameter.numel()] += offset.reshape(-1)
            start += parameter.numel()
        return sent

    def _read_weights(self, parameter: nn.Parameter) -> Tensor:
        """What a parameter was where the update's gradient was computed."""
        flat = torch.from_numpy(self._links.port.fetch(self._versions[self._read_version][0]))
        start = parameter.storage_offset()
        return flat[start : start + parameter.numel()].view_as(parameter)

    def _take_buffers(self, pushes: Sequence[AcceptedPush]) -> None:
        """Running statistics move by what each push's forward has added to those that it read."""
        own = dict(self._model.named_buffers())
        for push in pushes:
            read = self._versions[push.read_version][1]
            for name, array in push.report.buffers.items():
                moved = array if push.delay == 0 else self._buffers[name] + (array - read[name])
                self._buffers[name] = np.asarray(moved, dtype=array.dtype)
                self._changed.add(name)
                own[name].copy_(torch.from_numpy(self._buffers[name]))

    def _forget_versions(self) -> None:
        """Keep what pushes still to come were computed at; one that is read meanwhile is the update's or newer."""
        assert self._update is not None
        latest = self._version - 1
        for version in [v for v in self._versions if v < latest and v not in self._update.reads]:
            del self._versions[version]


def _means(pushes: Sequence[AcceptedPush]) -> dict[str, float]:
    """The metrics of an update: each push's are means over its samples."""
    metrics: dict[str, float] = {}
    for push in pushes:
        for name, value in push.report.metrics.items():
            metrics[name] = metrics.get(name, 0.0) + push.share * value
    return metrics
