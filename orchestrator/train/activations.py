"""What one backward holds besides the model: traced on tensors without memory, so that any size can be planned."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from orchestrator.core.protocols import LossFunction

REST = -1
"""Number of the unit that stands for everything outside the units."""


@dataclass(slots=True, kw_only=True)
class Segment:
    """A stretch of forward or backward inside one unit, or outside all of them. Sizes are bytes.

    Weights, buffers, the batch and gradients that have arrived at their parameters are not counted, except where it
    is said.
    """

    unit: int
    """Number of the unit, or ``REST``."""
    is_backward: bool
    start: int
    """Held when the segment begins."""
    peak: int
    """Most that is held at once."""
    gradients: int = 0
    """Gradients of parameters that arrive during the segment."""
    peak_with_gradients: int = 0
    """Most that is held at once together with the gradients that have arrived since the segment began."""


class Trace(TorchDispatchMode):
    """Counts the bytes of all live tensors that operations under it make, segment by segment.

    Args:
        known: tensors that are there anyway and do not count.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.segments: list[Segment] = []
        self.is_backward = False
        self._live = 0
        self._sizes: dict[int, int] = {}
        self._watched: dict[int, Any] = {}
        for tensor in known:
            self._watch(tensor, 0)

    def enter(self, unit: int) -> None:
        """Begin a segment."""
        live = self._live
        self.segments.append(
            Segment(unit=unit, is_backward=self.is_backward, start=live, peak=live, peak_with_gradients=live)
        )

    def leave(self, unit: int, outer: int) -> None:
        """Begin a segment of what is around ``unit``, where that is the one under way."""
        if self.segments[-1].unit == unit:
            self.enter(outer)

    def arrived(self, parameter: Tensor) -> None:
        """Count a parameter's gradient as a gradient from now on; the parameter forgets it."""
        assert parameter.grad is not None  # the hook runs after the gradient was set
        key = parameter.grad.untyped_storage()._cdata
        self._live -= self._sizes.get(key, 0)
        self._sizes[key] = 0
        self.segments[-1].gradients += parameter.grad.nbytes
        self._measure()
        parameter.grad = None

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._watch(tensor, tensor.untyped_storage().nbytes())
        self._measure()
        return result

    def _watch(self, tensor: Tensor, size: int) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._sizes:
            self._sizes[key] = size
            self._watched[key] = weakref.ref(storage, lambda _: self._freed(key))
            self._live += size

    def _freed(self, key: int) -> None:
        del self._watched[key]
        self._live -= self._sizes.pop(key)

    def _measure(self) -> None:
        if self.segments:
            now = self.segments[-1]
            now.peak = max(now.peak, self._live)
            now.peak_with_gradients = max(now.peak_with_gradients, self._live + now.gradients)


def trace_backward(
    model: nn.Module,
    units: Sequence[nn.Module],
    loss: LossFunction,
    batch: Any,
    fake: FakeTensorMode,
    precision: AbstractContextManager[Any],
) -> list[Segment]:
    """Run forward and backward of one micro-batch without computing anything, as an engine would run it.

    Args:
        model: built under ``fake``, in training mode, checkpointed as the job asks; it can be used once.
        units: modules whose passes are told apart, inner ones before those around them.
        loss: the recipe's.
        batch: of real tensors.
        fake: the mode under which nothing has memory.
        precision: context of the forward.

    Raises:
        Exception: whatever the recipe's loss raises where it needs the values of tensors.
    """
    batch = tree_map_only(Tensor, fake.from_tensor, batch)
    inputs = [leaf for leaf in tree_leaves(batch) if isinstance(leaf, Tensor)]
    trace = Trace([*model.parameters(), *model.buffers(), *inputs])
    for number, unit in enumerate(units):
        around = (other for other, module in enumerate(units) if other != number and unit in module.modules())
        _mark_passes(unit, number, next(around, REST), trace)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(trace.arrived)
    with fake, trace:
        trace.enter(REST)
        with precision:
            value, _ = loss(model, batch)
        trace.is_backward = True
        trace.enter(REST)
        # Engines weight every micro-batch by its share of the step.
        (value * 1.0).backward()
    return trace.segments


def _mark_passes(unit: nn.Module, number: int, outer: int, trace: Trace) -> None:
    """Begin and end segments with the unit's forward and, as its gradients pass, with its backward."""

    def entered(module: nn.Module, args: Any, kwargs: Any) -> None:
        # Checkpointing runs a forward within the backward; that belongs to the backward.
        if not trace.is_backward:
            trace.enter(number)
            for tensor in _differentiable((args, kwargs)):
                tensor.register_hook(lambda _: trace.leave(number, outer))

    def left(module: nn.Module, args: Any, result: Any) -> None:
        if not trace.is_backward:
            trace.leave(number, outer)
            for tensor in _differentiable(result):
                tensor.register_hook(lambda _: trace.enter(number))

    unit.register_forward_pre_hook(entered, with_kwargs=True)
    unit.register_forward_hook(left)


def _differentiable(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor) and leaf.requires_grad]
