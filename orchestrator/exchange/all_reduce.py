"""Synchronous data parallelism: every gradient is the sum over all ranks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn

from orchestrator.core.collectives import Collectives, Halves
from orchestrator.core.protocols import GradientObserver
from orchestrator.core.values import ExchangeReport
from orchestrator.spec.methods.distribution import AllReduce

DEFAULT_BUCKET_MIB = 25.0


class _Bucket:
    """A flat buffer whose slices are the ``.grad`` of its parameters: one message, no copy."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        first = parameters[0]
        self.parameters = parameters
        self.flat = torch.zeros(sum(p.numel() for p in parameters), dtype=first.dtype, device=first.device)
        self.num_pending = 0
        offset = 0
        for parameter in parameters:
            parameter.grad = self.flat[offset : offset + parameter.numel()].view_as(parameter)
            offset += parameter.numel()


def bucketize(parameters: Sequence[nn.Parameter], bucket_bytes: float) -> list[list[nn.Parameter]]:
    """Parameters in reverse order (gradients arrive last layer first), cut where a bucket is full or types differ."""
    buckets: list[list[nn.Parameter]] = []
    used = 0
    for parameter in reversed(parameters):
        last = buckets[-1][-1] if buckets else None
        same = last is not None and (last.dtype, last.device) == (parameter.dtype, parameter.device)
        size = parameter.numel() * parameter.element_size()
        if not same or used + size > bucket_bytes:
            buckets.append([])
            used = 0
        buckets[-1].append(parameter)
        used += size
    return buckets


class AllReduceExchange:
    """Sums gradients over ranks in buckets, each sent as soon as the last backward has filled it.

    Buckets are fixed for the life of the job (torch's DistributedDataParallel re-orders its own after the first
    step). With three or more ranks the order of a floating-point sum depends on the place in the message, so this
    is what lets a resumed job repeat the undisturbed one bit for bit.
    """

    def __init__(self, config: AllReduce, collectives: Collectives) -> None:
        self._bucket_bytes = (config.bucket_mib or DEFAULT_BUCKET_MIB) * 2**20
        self._collectives = collectives
        self._buckets: list[_Bucket] = []
        self._works: list[dist.Work | None] = []
        self._sending = False
        self._own: GradientObserver | None = None
        self._half: GradientObserver | None = None
        self._halves: Halves | None = None

    def attach(self, parameters: Sequence[nn.Parameter]) -> None:
        """Allocate the buckets, point every ``.grad`` into them and watch the gradients arrive."""
        self._buckets = [_Bucket(members) for members in bucketize(parameters, self._bucket_bytes)]
        for bucket in self._buckets:
            for parameter in bucket.parameters:
                parameter.register_post_accumulate_grad_hook(partial(self._arrived, bucket))

    def show(self, own: GradientObserver | None, half: GradientObserver | None = None) -> None:
        """Show every bucket before it is sent; where there is no other rank nothing is sent."""
        self._own, self._half = own, half
        if half is not None and self._halves is None:
            self._halves = self._collectives.halves()

    def begin(self, *, is_last: bool) -> None:
        """Arm the buckets before the last backward of a step."""
        self._sending = is_last and self._collectives.world_size > 1
        for bucket in self._buckets:
            bucket.num_pending = len(bucket.parameters)

    def before_backward(self) -> None:
        """Nothing to do."""

    def finish(self) -> ExchangeReport:
        """Send what is left (parameters that the loss did not touch) and wait for all messages."""
        if self._sending:
            self._send(upto=len(self._buckets))
        for bucket, work in zip(self._buckets, self._works, strict=True) if self._sending else ():
            if work is not None:
                work.wait()
            if self._half is not None and self._halves is not None:
                self._half(bucket.flat, bucket.parameters)
                self._halves.twins.sum_(bucket.flat)
        num_bytes = sum(bucket.flat.numel() * bucket.flat.element_size() for bucket in self._buckets)
        self._works.clear()
        self._sending = False
        return ExchangeReport(
            bytes_sent=num_bytes if self._collectives.world_size > 1 else 0, workers_used=self._collectives.world_size
        )

    def clear(self) -> None:
        """Zero the buckets."""
        for bucket in self._buckets:
            bucket.flat.zero_()

    def _arrived(self, bucket: _Bucket, parameter: Tensor) -> None:
        bucket.num_pending -= 1
        if self._sending and bucket.num_pending == 0:
            self._send(upto=self._num_ready())

    def _num_ready(self) -> int:
        """Length of the run of full buckets at the front: ranks must send in one order."""
        ready = 0
        while ready < len(self._buckets) and self._buckets[ready].num_pending == 0:
            ready += 1
        return ready

    def _send(self, *, upto: int) -> None:
        for bucket in self._buckets[len(self._works) : upto]:
            if self._own is not None:
                self._own(bucket.flat, bucket.parameters)
            among = self._collectives if self._half is None or self._halves is None else self._halves.own
            self._works.append(among.sum_(bucket.flat, wait=False))
