"""Synchronous training on gradients at older weights: what asynchronous workers do, and the same every time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from orchestrator.core.collectives import Collectives
from orchestrator.core.protocols import Compensation, GradientObserver
from orchestrator.core.staleness import Staleness
from orchestrator.core.values import ExchangeReport
from orchestrator.exchange.all_reduce import AllReduceExchange
from orchestrator.exchange.read_plan import ReadPlan
from orchestrator.spec.methods.asynchronous import Delayed
from orchestrator.spec.methods.distribution import AllReduce
from orchestrator.spec.push_order import OrderedPush

_KEY = "version_in_slot_"
"""Begins the names of older weights among the optimizer's state, where checkpoints find them."""


class DelayedExchange:
    """Lends the model the weights of an earlier update for as long as a gradient is computed.

    Satisfies ``core.protocols.Exchange``. All versions that are still to be read are kept, as they would have been sent
    to a worker: with what the compensation adds. Buffers (running statistics) are always the newest.

    Args:
        config: of the exchange.
        collectives: the job's collectives; every rank computes a slice of every gradient.
        staleness: told how old each update's gradients are.
        compensation: asked what to do about it; None is nothing.
        plan: which versions are read.
    """

    def __init__(
        self,
        config: Delayed,
        collectives: Collectives,
        *,
        staleness: Staleness,
        compensation: Compensation | None,
        plan: ReadPlan,
    ) -> None:
        self._forward_only = config.weights == "inconsistent"
        self._all_reduce = AllReduceExchange(AllReduce(name="all_reduce"), collectives)
        self._staleness = staleness
        self._compensation = compensation
        self._plan = plan
        self._version = 0
        self._pushes: list[OrderedPush] = []
        """Those of the step so far; the last one is being computed."""
        self._share = 1.0
        self._sums: list[Tensor] | None = None
        self._bytes_sent = 0
        self._workers_used = 1
        self._is_at_older = False

    def attach(self, parameters: Sequence[nn.Parameter]) -> None:
        """Take charge of the gradients of these parameters; version 0 are the weights that they have now."""
        self._parameters = list(parameters)
        self._all_reduce.attach(parameters)
        self._index = {id(parameter): index for index, parameter in enumerate(parameters)}
        self._versions = [self._copies() for _ in range(self._plan.num_slots)]
        self._newest = self._copies()
        self._staleness.read_weights = self._read_weights

    def show(self, own: GradientObserver | None, half: GradientObserver | None = None) -> None:
        """Show what each push sums over the ranks."""
        self._all_reduce.show(own, half)

    def keep_in(self, optimizer: torch.optim.Optimizer) -> None:
        """Keep the versions in an optimizer's state from its first step on: many make theirs where it is empty."""
        optimizer.register_step_post_hook(self._after_step)

    def open(self, version: int) -> None:
        """Training begins or goes on after so many updates."""
        self._version = version

    def begin_push(self, push: OrderedPush, share: float) -> None:
        """From here on gradients are of this push, which has a share of the update's samples."""
        self._end_push()
        self._pushes.append(push)
        self._share = share

    def begin(self, *, is_last: bool) -> None:
        """Lend the older weights; ``is_last`` is that of a push."""
        if not self._pushes:
            (push,) = self._plan.pushes(self._version)
            self.begin_push(push, share=1.0)
        if not self._is_at_older:
            _write(self._newest, self._parameters)
            _write(self._parameters, self._versions_read(self._pushes[-1]))
            self._is_at_older = True
        self._all_reduce.begin(is_last=is_last)

    def before_backward(self) -> None:
        """Where only the forward is at older weights, the newest come back.

        They are written into the same memory, behind the back of autograd, which would refuse to go on.
        """
        if self._forward_only:
            self._take_back()

    def finish(self) -> ExchangeReport:
        """Leave the sum of all pushes in the gradients, and the newest weights in the model."""
        self._end_push()
        if self._sums is not None:
            torch._foreach_copy_(_gradients(self._parameters), self._sums)
            self._sums = None
        self._oldest = max(self._pushes, key=lambda push: push.delay)
        for push in self._pushes:
            self._staleness.observe(push.delay, push.worker)
        self._staleness.delay = self._oldest.delay
        self._pushes = []
        bytes_sent, self._bytes_sent = self._bytes_sent, 0
        return ExchangeReport(bytes_sent=bytes_sent, workers_used=self._workers_used, facts=self._staleness.facts())

    def clear(self) -> None:
        """The step has been taken: keep what it has made of the weights, if that will be read."""
        self._all_reduce.clear()
        self._version += 1
        slot = self._plan.slot(self._version)
        if slot is None:
            return
        _write(self._versions[slot], self._parameters)
        if self._compensation is not None:
            for parameter, kept in zip(self._parameters, self._versions[slot], strict=True):
                offset = self._compensation.offset(parameter)
                if offset is not None:
                    kept.add_(offset)

    def _end_push(self) -> None:
        """Add what has been computed to the update, if anything has."""
        if not self._pushes:
            return
        self._take_back()
        report = self._all_reduce.finish()
        self._bytes_sent += report.bytes_sent
        self._workers_used = report.workers_used
        compensation, push = self._compensation, self._pushes[-1]
        factor = self._share * (1.0 if compensation is None else compensation.factor(push.delay))
        gradients = _gradients(self._parameters)
        if self._share < 1.0:
            if self._sums is None:
                self._sums = [torch.zeros_like(gradient) for gradient in gradients]
            torch._foreach_add_(self._sums, gradients, alpha=factor)
            self._all_reduce.clear()
        elif factor != 1.0:
            torch._foreach_mul_(gradients, factor)

    def _take_back(self) -> None:
        if self._is_at_older:
            _write(self._parameters, self._newest)
            self._is_at_older = False

    def _versions_read(self, push: OrderedPush) -> list[Tensor]:
        slot = self._plan.slot(push.read_version)
        assert slot is not None  # the plan keeps what it has read
        return self._versions[slot]

    def _read_weights(self, parameter: nn.Parameter) -> Tensor:
        """What a parameter was where the update's oldest gradient was computed."""
        return self._versions_read(self._oldest)[self._index[id(parameter)]]

    def _after_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        for index, parameter in enumerate(self._parameters):
            state = optimizer.state[parameter]
            for slot, kept in enumerate(self._versions):
                state[f"{_KEY}{slot}"] = kept[index]

    def _copies(self) -> list[Tensor]:
        return [parameter.detach().clone() for parameter in self._parameters]


def _write(into: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Copy tensor by tensor; ``data`` is memory without autograd's count of its changes."""
    torch._foreach_copy_([tensor.data for tensor in into], [tensor.data for tensor in values])


def _gradients(parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    return [parameter.grad for parameter in parameters if parameter.grad is not None]
