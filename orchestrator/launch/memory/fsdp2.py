"""Memory of a rank under FSDP2: a walk through forward and backward, unit by unit, as torch gathers and frees them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from orchestrator.launch.memory.model import NOTHING, REST, Memory, Model, Parameter, Segment, peak
from orchestrator.launch.memory.step import Setting
from orchestrator.spec.methods.engines import Fsdp2

TYPE_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """Sizes of one unit in bytes; rows are padded so that every rank's shard is as long as the first's."""

    gathered: int
    """Its whole weights in the type that is computed with: the message, and once more the tensors copied from it."""
    gradients: int
    """Its whole gradients."""
    message: int
    """Its gradients as the reduce-scatter takes them."""
    reduced: int
    """Its shards of the gradients."""


def fsdp2_peak(model: Model, setting: Setting, config: Fsdp2) -> Memory:
    """Peak of a rank under FSDP2.

    Always there are the shards of the weights, of the optimizer's state and of the gradients that are reduced. With
    g(u) the gathered weights of unit u, d(u) its whole gradients, r(u) their message, s(x) what the collective copies
    of a message (gloo: x; NCCL: 0) and a(u) the activations, the moments that compete are::

        forward of u     g(u-1) + g(u) + s(g(u))               the message before is kept until this one is unpacked
                         2 g(u) + a(u)                         the message and the weights unpacked from it
        backward of u    2 g(u) + r(u+1)                       u is unpacked; u+1 is still being reduced
                         g(u) + g(u-1) + s(g(u-1)) + r(u+1)    u-1 is fetched ahead
                         g(u) + g(u-1) + d(u) + r(u+1) + a(u)
                         g(u-1) + d(u) + r(u)                  gradients are packed
                         g(u-1) + r(u) + s(r(u)) + shards of d(u)
        step             the optimizer's temporaries, of one shard or of all

    What belongs to no unit is gathered from the first forward to the end of the backward. Units stay gathered
    between forward and backward without ``reshard_after_forward``. While micro-batches accumulate, whole gradients
    of all units are kept, and only the last backward reduces them.
    """
    return peak(_Rank(model, setting, config).step())


class _Rank:
    """What a rank holds, moment by moment, in one step after the first."""

    def __init__(self, model: Model, setting: Setting, config: Fsdp2) -> None:
        self._config = config
        self._num_shards = setting.workers // config.mesh.replicate
        self._setting = setting
        self._backward = setting.backward(model, config.param_dtype)
        numbers = (REST, *range(model.num_units))
        self._units = {n: self._sizes([p for p in model.parameters if p.unit == n]) for n in numbers}
        shapes = [p.shard_shape(self._num_shards) for p in model.trainable]
        shards = sum(p.shard_numel(self._num_shards) * p.item_bytes for p in model.parameters)
        self._shards = Memory(parameters=shards, optimizer=setting.optimizer.state_bytes(shapes))
        self._in_step = Memory(optimizer=setting.optimizer.step_bytes([prod(shape) for shape in shapes]))
        self._buffers = Memory(parameters=model.buffer_bytes)
        self._gathered: set[int] = set()
        self._fetched = 0
        """Message of gathered weights that is still held."""
        self._reducing = 0
        """Message of gradients that is still held."""
        self._whole: dict[int, int] = {}
        """Whole gradients by unit."""
        self._reduced = 0
        """Shards of gradients."""

    def _sizes(self, parameters: list[Parameter]) -> Unit:
        shards = self._num_shards
        compute = TYPE_BYTES.get(self._config.param_dtype or "")
        reduce = TYPE_BYTES.get(self._config.reduce_dtype or "")
        trainable = [p for p in parameters if p.trainable]
        return Unit(
            gathered=sum(shards * p.shard_numel(shards) * (compute or p.item_bytes) for p in parameters),
            gradients=sum(p.numel * (compute or p.item_bytes) for p in trainable),
            message=sum(shards * p.shard_numel(shards) * (reduce or compute or p.item_bytes) for p in trainable),
            reduced=sum(p.shard_numel(shards) * p.item_bytes for p in trainable),
        )

    def step(self) -> Iterator[Memory]:
        """Everything that may be the peak: a backward that only accumulates, the last one, the update."""
        num_different = min(self._setting.num_micro_batches, 2)
        for index in range(num_different):
            yield from self._run_forward()
            yield from self._run_backward(is_last=index == num_different - 1)
        yield self._now(0, passing=self._in_step)

    def _run_forward(self) -> Iterator[Memory]:
        segments = [s for s in self._backward.segments if not s.is_backward]
        for index, segment in enumerate(segments):
            if segment.unit not in self._gathered:
                message = self._message(segment.unit)
                yield self._now(segment.start, communication=message + self._staging(message))
                # The message before this one was kept until now, so that unpacking and sending overlap.
                self._fetched = message
                self._gathered.add(segment.unit)
            yield self._now(segment.peak)
            is_over = segment.unit not in {later.unit for later in segments[index + 1 :]}
            if is_over and segment.unit != REST and self._config.reshard_after_forward:
                self._gathered.remove(segment.unit)
        self._fetched = 0

    def _run_backward(self, *, is_last: bool) -> Iterator[Memory]:
        segments = [s for s in self._backward.segments if s.is_backward]
        order = list(dict.fromkeys((REST, *(s.unit for s in segments))))
        met: set[int] = set()
        for index, segment in enumerate(segments):
            unit = segment.unit
            after = segments[index + 1 :]
            if unit not in met:
                met.add(unit)
                yield from self._unpack_and_fetch_ahead(segment, order)
            had_gradients = self._whole.get(unit, 0)
            complete = self._units[unit].gradients
            if had_gradients == complete:
                yield self._now(segment.peak)
            else:
                yield self._now(0) + segment.together
            self._whole[unit] = min(complete, had_gradients + segment.gradients)
            if unit not in {later.unit for later in after}:
                yield from self._finish(unit, after[0].start if after else 0, is_last=is_last)

    def _unpack_and_fetch_ahead(self, segment: Segment, order: list[int]) -> Iterator[Memory]:
        if segment.unit not in self._gathered:
            self._fetched = self._message(segment.unit)
            self._gathered.add(segment.unit)
            yield self._now(segment.start)
        self._fetched = 0
        position = order.index(segment.unit) + 1
        if position < len(order) and order[position] not in self._gathered:
            self._fetched = self._message(order[position])
            yield self._now(segment.start, communication=self._staging(self._fetched))

    def _finish(self, unit: int, activations: int, *, is_last: bool) -> Iterator[Memory]:
        self._gathered.remove(unit)
        self._reducing = 0
        if is_last:
            self._reducing = self._units[unit].message
            yield self._now(activations)
            self._whole.pop(unit)
            self._reduced += self._units[unit].reduced
            yield self._now(activations, communication=self._staging(self._reducing))

    def _message(self, unit: int) -> int:
        return self._units[unit].gathered if self._num_shards > 1 else 0

    def _staging(self, message: int) -> int:
        return self._setting.staging(message) if self._num_shards > 1 else 0

    def _now(self, activations: int, *, communication: int = 0, passing: Memory = NOTHING) -> Memory:
        """Everything at this moment."""
        divided = self._shards + Memory(gradients=self._reduced) + passing
        if self._config.cpu_offload and self._setting.on_gpu:
            divided = Memory(host=divided.total)
        return (
            divided
            + self._buffers
            + Memory(
                parameters=sum(self._units[unit].gathered for unit in self._gathered),
                gradients=sum(self._whole.values()),
                activations=self._backward.batch_bytes + activations,
                communication=self._fetched + self._reducing + communication,
            )
        )
