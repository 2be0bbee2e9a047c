"""Measures how the gradients of a step's groups differ: the numbers of `core.gradient_stats.GroupNorms`.

A loss carries its share of the global batch, so of group k an engine sees h_k = (n_k / B) g_k, and the sum of all h_k
is the step's gradient. What is needed are the sum of |h_k|^2 B / n_k over groups and the norm of the sum: one number
each, added over ranks in one small message that nobody waits for until the step after the next is planned.

Groups are workers where an engine shows a worker's own gradient before it is summed, and micro-batches elsewhere.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils.hooks import RemovableHandle

from orchestrator.core.collectives import Collectives
from orchestrator.core.gradient_stats import GroupNorms
from orchestrator.core.values import Measurement

_UNTOLD_STEPS = 2
"""Steps that are taken before a measurement is told: nobody waits for it then."""
_RUN = 4096
"""Elements whose squares are added in their own precision: a longer sum of them is wrong in the fourth digit."""


def run_norms(tensor: Tensor) -> list[Tensor]:
    """Norms of runs of elements, in vectors on the tensor's device, whose squares add up to that of the tensor."""
    flat = tensor.detach().reshape(-1)
    if flat.dtype in (torch.float16, torch.bfloat16):
        flat = flat.float()
    whole = flat.numel() // _RUN * _RUN
    norms = [torch.linalg.vector_norm(flat[whole:], dim=0, keepdim=True)] if whole < flat.numel() else []
    return [torch.linalg.vector_norm(flat[:whole].view(-1, _RUN), dim=1), *norms] if whole else norms


def squared_norm(norms: list[Tensor]) -> Tensor:
    """Sum of the squares of what ``run_norms`` gave, a float64 scalar; of nothing 0, in host memory."""
    return torch.cat(norms).double().square().sum() if norms else torch.zeros((), dtype=torch.float64)


def inner_product(one: Tensor, other: Tensor) -> Tensor:
    """Sum of the products of all elements, a float64 scalar."""
    return (one.detach().reshape(-1).double() * other.detach().reshape(-1).double()).sum()


def squared_norm_of_sum(gradients: Iterable[Tensor | None], world_size: int) -> list[Tensor]:
    """Parts of the squared norm of the step's gradient on this rank; what several ranks hold is divided by them."""
    norms: dict[int, list[Tensor]] = {}
    for gradient in gradients:
        if gradient is not None:
            own, copies = _own_elements(gradient, world_size)
            norms.setdefault(copies, []).extend(run_norms(own))
    return [squared_norm(some) / copies for copies, some in norms.items()]


def _own_elements(gradient: Tensor, world_size: int) -> tuple[Tensor, int]:
    """This rank's elements, and how many ranks hold them."""
    if not isinstance(gradient, DTensor):
        return gradient, world_size
    mesh = gradient.device_mesh
    sizes = (mesh.size(index) for index, place in enumerate(gradient.placements) if place.is_replicate())
    return gradient.to_local(), math.prod(sizes)


@dataclass(frozen=True, slots=True)
class _Group:
    """One group's gradient h_k."""

    square: Tensor
    """|h_k|^2, float64."""
    share: float
    """n_k / B."""
    copies: list[tuple[Tensor, Tensor]]
    """Its pieces, each with where the same piece of the sum lies; empty where no products are wanted."""


class GradientNorms:
    """The measurement of one engine.

    In a step that is measured the engine shows every piece of every group's gradient once (``add``), says what each
    micro-batch was (``count``), and finishes with its part of the norm of the sum. What was measured is told once,
    when the step after the next is planned; a checkpoint keeps what was not told yet.

    Args:
        collectives: the job's collectives.
        per_micro_batch: whether every micro-batch is a group; else all micro-batches of a rank are one.
    """

    def __init__(self, collectives: Collectives, *, per_micro_batch: bool) -> None:
        self._collectives = collectives
        self.per_micro_batch = per_micro_batch
        self._measurement: Measurement | None = None
        self._norms: list[Tensor] = []
        self._copies: list[tuple[Tensor, Tensor]] = []
        self._share = 0.0
        self._groups: list[_Group] = []
        self._handles: list[RemovableHandle] = []
        self._untold: deque[_Untold | None] = deque(maxlen=_UNTOLD_STEPS)

    @property
    def is_on(self) -> bool:
        """Whether the present step is measured."""
        return self._measurement is not None

    def begin_step(self, measurement: Measurement | None) -> None:
        """Before the first micro-batch of a step."""
        self._measurement = measurement

    def watch(self, parameters: Iterable[Tensor], totals: Iterable[Tensor | None] = ()) -> None:
        """Until the end of the step take every gradient that reaches these parameters as a piece of a micro-batch's.

        Args:
            parameters: leaves, each reached once in a backward.
            totals: for each of them where its gradient of the whole step will lie; may be left out.
        """
        for parameter, total in zip_longest(parameters, totals):
            self.until_finish(parameter.register_hook(partial(self._take, total)))

    def until_finish(self, handle: RemovableHandle) -> None:
        """Remove a hook at the end of the step."""
        self._handles.append(handle)

    def _take(self, total: Tensor | None, piece: Tensor) -> None:
        self.add(piece, total)

    def add(self, piece: Tensor, total: Tensor | None = None) -> None:
        """Take a piece of a group's gradient.

        Args:
            piece: of any shape, read at once.
            total: where the same piece of the step's gradient will lie; None where it never does.
        """
        assert self._measurement is not None
        self._norms += run_norms(piece)
        if self._measurement.inner_products and total is not None:
            self._copies.append((piece.detach().clone(), total))

    def count(self, share: float) -> None:
        """A micro-batch that is so large a share of the global batch has been added."""
        if self._measurement is not None:
            self._share += share
            if self.per_micro_batch:
                self._close_group()

    def _close_group(self) -> None:
        # A group without samples has weight 0 and no gradient.
        if self._share > 0:
            self._groups.append(_Group(squared_norm(self._norms), self._share, self._copies))
        self._norms, self._copies, self._share = [], [], 0.0

    def finish(self, parts_of_sum: list[Tensor], *, group_scale: float = 1.0, sum_scale: float = 1.0) -> None:
        """After the sum over ranks; a collective where the step is measured.

        Args:
            parts_of_sum: add up to the squared norm of the step's gradient, over them and all ranks.
            group_scale: what the pieces were multiplied by.
            sum_scale: what the step's gradient was multiplied by.
        """
        measurement, self._measurement = self._measurement, None
        if measurement is None:
            self._untold.append(None)
            return
        self._close_group()
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        groups, self._groups = self._groups, []
        numbers = [
            _total([group.square / (group.share * group_scale**2) for group in groups], parts_of_sum),
            _total([part / sum_scale**2 for part in parts_of_sum], parts_of_sum),
            torch.full_like(parts_of_sum[0], len(groups)),
        ]
        if measurement.inner_products:
            numbers += self._slots(groups, measurement.num_samples, group_scale * sum_scale, like=parts_of_sum[0])
        message = torch.stack(numbers)
        if self._collectives.world_size > 1:
            message = message.to(self._collectives.device, non_blocking=True)
        self._untold.append(_Untold(measurement, message, self._collectives.sum_(message, wait=False)))

    def _slots(self, groups: list[_Group], num_samples: int, scale: float, like: Tensor) -> list[Tensor]:
        """A place for the size and then one for the product of every group of all ranks: zeros for others' groups."""
        rank, world_size = self._collectives.rank, self._collectives.world_size
        first, num_places = (0, len(groups)) if world_size == 1 else (rank, world_size)
        sizes, products = ([torch.zeros_like(like) for _ in range(num_places)] for _ in range(2))
        for place, group in enumerate(groups, first):
            sizes[place].fill_(round(group.share * num_samples))
            products[place] = _total([inner_product(*pair) for pair in group.copies], [like]) / (group.share * scale)
        return [*sizes, *products]

    def tell(self) -> GroupNorms | None:
        """What was measured in the step before the last one, if it was and is finite; called once before each step."""
        if len(self._untold) < _UNTOLD_STEPS:
            return None
        untold = self._untold.popleft()
        return None if untold is None else untold.read()

    def state_dict(self) -> dict[str, Any]:
        """What was not told yet, as JSON values: of each of the last steps the numbers, or None."""
        if not any(self._untold):
            return {}
        return {"untold": [untold and untold.state() for untold in self._untold]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore ``state_dict``."""
        self._untold.clear()
        self._untold.extend(saved and _Untold.of(saved) for saved in state.get("untold", ()))


def _total(numbers: list[Tensor], like: list[Tensor]) -> Tensor:
    """Sum of scalars, on the device of the first of ``like``."""
    return sum((number.to(like[0].device) for number in numbers), torch.zeros_like(like[0]))


class _Untold:
    """The numbers of one step, perhaps still on their way.

    From a GPU they are copied behind the work of their own step: read later, they do not wait for the next one's.
    """

    def __init__(self, measurement: Measurement, message: Tensor, work: dist.Work | None) -> None:
        self._measurement = measurement
        self._message = message
        self._work = work
        self._copied: torch.cuda.Event | None = None
        if message.is_cuda:
            if work is not None:
                work.wait()  # the stream waits, not this process
            self._work = None
            self._message = torch.empty_like(message, device="cpu", pin_memory=True).copy_(message, non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record()

    def _values(self) -> list[float]:
        if self._work is not None:
            self._work.wait()
            self._work = None
        if self._copied is not None:
            self._copied.synchronize()
        values: list[float] = self._message.tolist()
        return values

    def read(self) -> GroupNorms | None:
        """The numbers; None where a gradient was not finite, as in a step that a loss scale skips."""
        mean_square, norm_sq, num_groups, *slots = self._values()
        if not all(map(math.isfinite, (mean_square, norm_sq, *slots))):
            return None
        num_samples = self._measurement.num_samples
        sizes, products = slots[: len(slots) // 2], slots[len(slots) // 2 :]
        filled = [index for index, size in enumerate(sizes) if size > 0]
        return GroupNorms(
            sum_weighted_sq=mean_square * num_samples,
            norm_sq=norm_sq,
            num_groups=int(num_groups),
            num_samples=num_samples,
            group_sizes=tuple(int(sizes[index]) for index in filled) if slots else None,
            inner_products=tuple(products[index] for index in filled) if slots else None,
        )

    def state(self) -> dict[str, Any]:
        """JSON values."""
        measurement = self._measurement
        return {
            "num_samples": measurement.num_samples,
            "inner_products": measurement.inner_products,
            # JSON has no infinity.
            "values": [value if math.isfinite(value) else None for value in self._values()],
        }

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> _Untold:
        """Of ``state``."""
        measurement = Measurement(num_samples=state["num_samples"], inner_products=state["inner_products"])
        values = [math.nan if value is None else value for value in state["values"]]
        return cls(measurement, torch.tensor(values, dtype=torch.float64), None)
