"""What is known of a recipe's model and of one backward through it, and what a rank's memory is made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from math import ceil, prod
from typing import Any, Self

REST = -1
"""Number of the unit that stands for everything outside the units."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One tensor of weights."""

    name: str
    shape: tuple[int, ...]
    item_bytes: int
    trainable: bool
    unit: int
    """The module that is gathered as a whole, or ``REST``."""

    @property
    def numel(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def num_bytes(self) -> int:
        """Size as a whole."""
        return self.numel * self.item_bytes

    def shard_shape(self, num_shards: int) -> tuple[int, ...]:
        """Shape of one shard: the rows of the first dimension are divided, and every shard is as long as the first.

        A tensor without dimensions counts as one row.
        """
        rows, *rest = self.shape or (1,)
        return (ceil(rows / num_shards), *rest)

    def shard_numel(self, num_shards: int) -> int:
        """Elements of one shard."""
        return prod(self.shard_shape(num_shards))


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A stretch of forward or backward inside one unit; see ``train.activations``. Sizes are bytes.

    Weights, buffers, the batch and gradients that have arrived at their parameters are not counted, except where it
    is said.
    """

    unit: int
    is_backward: bool
    start: int
    """Held when the segment begins."""
    peak: int
    """Most that is held at once."""
    gradients: int
    """Gradients of parameters that arrive during the segment."""
    peak_with_gradients: int
    """Most that is held at once together with the gradients that have arrived since the segment began."""

    @property
    def together(self) -> Memory:
        """The peak of both, where the gradients stay."""
        return Memory(activations=self.peak, gradients=self.peak_with_gradients - self.peak)


@dataclass(frozen=True, slots=True, kw_only=True)
class Backward:
    """Forward and backward of one micro-batch."""

    num_samples: int
    param_dtype: str | None
    """Type that weights were cast to before; None is their own."""
    batch_bytes: int
    segments: tuple[Segment, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """What ``train.describe`` found out."""

    parameters: tuple[Parameter, ...]
    buffer_bytes: int
    num_units: int
    backwards: tuple[Backward, ...] = ()
    activations_unknown: str | None = None
    """Why there are no backwards."""

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Self:
        """Read what ``train.describe`` wrote."""
        return cls(
            parameters=tuple(Parameter(**{**p, "shape": tuple(p["shape"])}) for p in found["parameters"]),
            buffer_bytes=found["buffer_bytes"],
            num_units=found["num_units"],
            backwards=tuple(
                Backward(**{**b, "segments": tuple(Segment(**s) for s in b["segments"])})
                for b in found.get("backwards", ())
            ),
            activations_unknown=found.get("activations_unknown"),
        )

    @property
    def num_parameters(self) -> int:
        """Trainable elements."""
        return sum(p.numel for p in self.trainable)

    @property
    def trainable(self) -> tuple[Parameter, ...]:
        """Parameters that get a gradient, in the model's order."""
        return tuple(p for p in self.parameters if p.trainable)

    def backward(self, num_samples: int, param_dtype: str | None = None) -> Backward:
        """The backward of a micro-batch of so many samples.

        Between two sizes that were traced, and outside them, memory is taken to be linear in the samples. Where none
        was traced, activations are 0 and only the gradients are there.
        """
        traced = sorted(
            (b for b in self.backwards if b.param_dtype == param_dtype or not self._was_traced(param_dtype)),
            key=lambda b: b.num_samples,
        )
        if not traced:
            return self._without_activations(num_samples)
        above = next((b for b in traced if b.num_samples >= num_samples), traced[-1])
        smaller = [b for b in traced if b.num_samples < above.num_samples and len(b.segments) == len(above.segments)]
        return _interpolate(smaller[-1] if smaller else _nothing_of(above), above, num_samples)

    def _was_traced(self, param_dtype: str | None) -> bool:
        return any(b.param_dtype == param_dtype for b in self.backwards)

    def _without_activations(self, num_samples: int) -> Backward:
        sizes = {n: sum(p.num_bytes for p in self.trainable if p.unit == n) for n in (REST, *range(self.num_units))}
        inner = range(self.num_units)
        passes = [(n, False, 0) for n in (REST, *inner, REST)]
        passes += [(REST, True, 0), *((n, True, sizes[n]) for n in reversed(inner)), (REST, True, sizes[REST])]
        segments = [
            Segment(unit=n, is_backward=backward, start=0, peak=0, gradients=size, peak_with_gradients=size)
            for n, backward, size in passes
        ]
        return Backward(num_samples=num_samples, param_dtype=None, batch_bytes=0, segments=tuple(segments))


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What one rank holds at one moment, in bytes."""

    parameters: int = 0
    """Weights and buffers, shards and gathered ones."""
    gradients: int = 0
    optimizer: int = 0
    """State, copies of the weights that only the optimizer has, and what it computes in passing."""
    activations: int = 0
    """What the backward needs, what is computed in passing, and the micro-batch."""
    communication: int = 0
    """Messages under way and the copies that a collective makes."""
    host: int = 0
    """Of all these, what was moved to host memory and is not counted in them."""

    @property
    def total(self) -> int:
        """All of it but ``host``."""
        return self.parameters + self.gradients + self.optimizer + self.activations + self.communication

    def __add__(self, other: Memory) -> Memory:
        return Memory(**{part.name: getattr(self, part.name) + getattr(other, part.name) for part in fields(Memory)})


NOTHING = Memory()


def peak(moments: Iterable[Memory]) -> Memory:
    """The moment at which most is held, with the most that host memory holds at any of them."""
    seen = list(moments)
    return replace(max(seen, key=lambda memory: memory.total), host=max(memory.host for memory in seen))


def _nothing_of(backward: Backward) -> Backward:
    """The backward of no samples: only the gradients are there."""
    segments = tuple(
        replace(segment, start=0, peak=0, peak_with_gradients=segment.gradients) for segment in backward.segments
    )
    return replace(backward, num_samples=0, batch_bytes=0, segments=segments)


def _interpolate(below: Backward, above: Backward, num_samples: int) -> Backward:
    share = (num_samples - below.num_samples) / (above.num_samples - below.num_samples)

    def between(small: int, large: int) -> int:
        return max(0, round(small + share * (large - small)))

    segments = tuple(
        replace(
            large,
            start=between(small.start, large.start),
            peak=between(small.peak, large.peak),
            peak_with_gradients=between(small.peak_with_gradients, large.peak_with_gradients),
        )
        for small, large in zip(below.segments, above.segments, strict=True)
    )
    batch_bytes = between(below.batch_bytes, above.batch_bytes)
    return replace(above, num_samples=num_samples, batch_bytes=batch_bytes, segments=segments)
