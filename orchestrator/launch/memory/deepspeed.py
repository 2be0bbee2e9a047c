"""Memory of a rank under DeepSpeed's ZeRO stages 1 to 3, read from its source (0.19) and measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import ceil
from typing import Any

from orchestrator.launch.memory.model import Memory, Model, peak
from orchestrator.launch.memory.replicas import undivided_peak
from orchestrator.launch.memory.step import FLOAT32_BYTES, Setting


@dataclass(frozen=True, slots=True, kw_only=True)
class ZeroSizes:
    """What DeepSpeed's configuration says about memory, with DeepSpeed's defaults. Counts are elements."""

    stage: int
    offloads_optimizer: bool = False
    offloads_parameters: bool = False
    reduce_bucket: int = 500_000_000
    allgather_bucket: int = 500_000_000
    num_buckets: int = 1
    """Buffers that gradients are collected in; two where communication overlaps (stages 1 and 2)."""
    prefetch: int = 50_000_000
    max_reuse_distance: int = 1_000_000_000
    persistence_threshold: int = 100_000
    sub_group: int = 1_000_000_000
    """Elements of a rank's partition that one step of the optimizer takes at stage 3."""

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ZeroSizes:
        """Read a configuration that ``spec.deepspeed_config`` resolved."""
        zero = config["zero_optimization"]
        return cls(
            stage=zero["stage"],
            offloads_optimizer="offload_optimizer" in zero,
            offloads_parameters="offload_param" in zero,
            num_buckets=2 if zero.get("overlap_comm") and zero["stage"] < 3 else 1,
            **{field: int(zero[key]) for key, field in _SIZES.items() if key in zero},
        )


_SIZES = {
    "reduce_bucket_size": "reduce_bucket",
    "allgather_bucket_size": "allgather_bucket",
    "prefetch_bucket_size": "prefetch",
    "stage3_prefetch_bucket_size": "prefetch",
    "max_reuse_distance": "max_reuse_distance",
    "stage3_max_reuse_distance": "max_reuse_distance",
    "param_persistence_threshold": "persistence_threshold",
    "stage3_param_persistence_threshold": "persistence_threshold",
    "sub_group_size": "sub_group",
}
"""Keys of DeepSpeed's configuration and our names of them."""


def deepspeed_peak(model: Model, setting: Setting, zero: ZeroSizes) -> Memory:
    """Peak of a rank under DeepSpeed: ``undivided_peak``, ``_Flat`` or ``_Divided``, by stage."""
    if zero.stage == 0:
        return undivided_peak(model, setting)
    return peak((_Divided if zero.stage == 3 else _Flat)(model, setting, zero).moments())


class _Zero:
    """What the stages have in common.

    P, G, S are the bytes of the weights, their gradients and the optimizer's state, N the workers, b the bucket in
    which gradients are collected: allocated as a whole on a GPU; of host memory it takes only what is written to.
    """

    def __init__(self, model: Model, setting: Setting, zero: ZeroSizes) -> None:
        self._setting = setting
        self._zero = zero
        self._num_shards = setting.workers
        self._weights = sum(p.num_bytes for p in model.parameters)
        self._buffers = model.buffer_bytes
        numels = [p.numel for p in model.trainable]
        self._numels = numels
        self._gradients = sum(numels) * FLOAT32_BYTES
        self._partition = ceil(sum(numels) / self._num_shards) * FLOAT32_BYTES
        self._state = setting.optimizer.state_bytes([(self._partition // FLOAT32_BYTES,)])
        self._message = min(self._gradients, zero.reduce_bucket * FLOAT32_BYTES)
        self._bucket = zero.num_buckets * (zero.reduce_bucket * FLOAT32_BYTES if setting.on_gpu else self._message)
        self._accumulates = setting.num_micro_batches > 1
        self._backward = setting.backward(model)

    @property
    def _fits_one_bucket(self) -> bool:
        """Whether gradients are reduced only once, after the backward."""
        return self._gradients <= self._zero.reduce_bucket * FLOAT32_BYTES

    def _activations(self, num_bytes: int) -> Memory:
        """With the micro-batch."""
        return Memory(activations=self._backward.batch_bytes + num_bytes)

    def _offloaded(self, memory: Memory) -> Memory:
        """The same in host memory, where the spec wants it there and the worker has another."""
        return Memory(host=memory.total) if self._zero.offloads_optimizer and self._setting.on_gpu else memory


class _Flat(_Zero):
    """Stages 1 and 2.

    Every rank holds the weights as one flat tensor and, for its part of them, a copy that the optimizer steps on::

        always     P + P/N + S/N
        backward   stage 1: the gradients so far, then 2 b: the bucket, and the copy of it that is summed
                   stage 2: b while it fills, then 2 b; G/N of earlier micro-batches
                   either: d, the whole gradients of the parameters that the rank owns a part of, once b was reduced
        step       d + G/N (the flat gradient) + what the optimizer computes in passing
        after      gloo stages the all-gather of the weights
    """

    def moments(self) -> Iterator[Memory]:
        """Everything that may be the peak of a step after the first."""
        zero = self._zero
        own = self._own_gradients()
        optimizer = self._offloaded(Memory(optimizer=self._partition + self._state))
        resident = Memory(parameters=self._weights + self._buffers) + optimizer
        copied = self._message if self._num_shards > 1 else 0
        accumulated = own if self._accumulates and zero.stage == 2 else 0
        arrived = self._gradients if self._accumulates and zero.stage == 1 else 0
        for segment in self._backward.segments:
            held = Memory(activations=segment.peak) if self._accumulates and zero.stage == 1 else segment.together
            yield resident + self._activations(0) + held + self._collected(arrived, accumulated)
            if not self._fits_one_bucket and segment.is_backward:
                reduced = Memory(gradients=own + accumulated, communication=self._bucket + copied)
                yield resident + self._activations(segment.peak) + reduced
            if not (self._accumulates and zero.stage == 1):
                arrived += segment.gradients
        yield resident + Memory(gradients=accumulated, communication=self._bucket + copied)
        in_passing = self._setting.optimizer.step_bytes([self._partition // FLOAT32_BYTES])
        step = Memory(gradients=own + self._partition, optimizer=in_passing)
        yield resident + self._offloaded(step)
        gathered = min(self._gradients, zero.allgather_bucket * FLOAT32_BYTES)
        yield resident + Memory(communication=self._setting.staging(gathered))

    def _collected(self, arrived: int, accumulated: int) -> Memory:
        """Gradients between two reductions; stage 1 collects them where autograd leaves them."""
        in_bucket = 0 if self._zero.stage == 1 else min(arrived, self._bucket)
        left = arrived if self._zero.stage == 1 else 0
        allocated = self._bucket if self._setting.on_gpu else in_bucket
        reduced = self._own_gradients() if self._zero.stage == 2 and arrived > self._message else 0
        return Memory(gradients=left + accumulated + reduced, communication=allocated)

    def _own_gradients(self) -> int:
        """Most bytes of whole gradients that a rank owns a part of."""
        size = self._partition // FLOAT32_BYTES
        edges = list(accumulate(self._numels, initial=0))
        owned = [
            sum(stop - start for start, stop in pairwise(edges) if start < (rank + 1) * size and stop > rank * size)
            for rank in range(self._num_shards)
        ]
        return max(owned) * FLOAT32_BYTES


class _Divided(_Zero):
    """Stage 3.

    Every rank holds its part of every tensor, and once more what the optimizer steps on. The bucket and the gradients
    of its part stay allocated. Weights are fetched far ahead of their use, in messages of m = ``prefetch`` elements,
    and stay until nothing within ``max_reuse_distance`` elements needs them again, which with DeepSpeed's defaults is
    the whole of a model of up to 0.5 billion parameters: k are gathered at the end of the forward::

        always     2 P/N + S/N + G/N + b + the weights too small to be divided
        backward   k + m + A, the message and the weights unpacked from it
                   b once more, as the reduce-scatter takes it, and once more with gloo; k with it while the backward
                   goes on, that is where b does not hold all gradients
        step       G/N + what the optimizer computes in passing
    """

    def moments(self) -> Iterator[Memory]:
        """Everything that may be the peak of a step after the first."""
        zero = self._zero
        part = self._partition
        small = sum(n for n in self._numels if n < zero.persistence_threshold) * FLOAT32_BYTES
        shards = ceil(self._weights / self._num_shards)
        on_host = zero.offloads_parameters and self._setting.on_gpu
        resident = (
            Memory(parameters=small + self._buffers, communication=self._bucket)
            + (Memory(host=shards) if on_host else Memory(parameters=shards))
            + self._offloaded(Memory(gradients=part, optimizer=part + self._state))
        )
        reach = (zero.max_reuse_distance // 2 + zero.prefetch) * FLOAT32_BYTES
        large = self._weights - small if self._num_shards > 1 else 0
        kept, message = min(large, reach), min(large, zero.prefetch * FLOAT32_BYTES)
        activations = max(segment.peak for segment in self._backward.segments)
        yield resident + Memory(parameters=kept, communication=message) + self._activations(activations)
        reduction = Memory(communication=self._message + self._setting.staging(self._message))
        if self._fits_one_bucket:
            yield resident + reduction
        else:
            yield resident + reduction + Memory(parameters=kept) + self._activations(activations)
        stepped = min(part, zero.sub_group * FLOAT32_BYTES)
        in_passing = self._setting.optimizer.step_bytes([stepped // FLOAT32_BYTES])
        yield resident + self._offloaded(Memory(gradients=stepped, optimizer=in_passing))
