"""Measures how the gradients of a step's groups differ: the numbers of `core.gradient_stats.GroupNorms`.

A loss carries its share of the global batch, so of group k an engine sees h_k = (n_k / B) g_k, and the sum of all h_k
is the step's gradient. What is needed are the sum of |h_k|^2 B / n_k over groups and the norm of the sum: one number
each, added over ranks in one small message that nobody waits for until the step after the next is planned.

Groups are workers where an engine shows a worker's own gradient before it is summed, and micro-batches elsewhere.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice, zip_longest
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from orchestrator.core.collectives import Collectives
from orchestrator.core.gradient_stats import GroupNorms, ModuleNorms
from orchestrator.core.served import ModuleSquares
from orchestrator.core.values import Measurement
from orchestrator.engines.half_norms import HalfNorms
from orchestrator.engines.norms import Runs, inner_product, module_norms, squared_norms

_UNTOLD_STEPS = 2
"""Steps that are taken before a measurement is told: nobody waits for it then."""


@dataclass(frozen=True, slots=True)
class _Group:
    """One group's gradient h_k."""

    squares: Tensor
    """|h_k|^2 of each module, [modules] in float64."""
    share: float
    """n_k / B."""
    copies: list[tuple[Tensor, Tensor]]
    """Its pieces, each with where the same piece of the sum lies; empty where no products are wanted."""


class GradientNorms:
    """The measurement of one engine.

    In a step that is measured the engine shows every piece of every group's gradient once (``add``), says what each
    micro-batch was (``count``), and finishes with its part of the norms of the sum. What was measured is told once,
    when the step after the next is planned; a checkpoint keeps what was not told yet.

    Args:
        collectives: the job's collectives.
        per_micro_batch: whether every micro-batch is a group; else all micro-batches of a rank are one.
        module_of: number of the module of each trainable parameter, by name; empty where nobody asks for modules.
    """

    def __init__(
        self, collectives: Collectives, *, per_micro_batch: bool, module_of: Mapping[str, int] | None = None
    ) -> None:
        self._collectives = collectives
        self.per_micro_batch = per_micro_batch
        self._module_of = module_of or {}
        self._all_modules = 1 + max(self._module_of.values(), default=0)
        self.halves = HalfNorms(collectives, self._all_modules)
        self.metric: Callable[[str, Tensor], Tensor] | None = None
        """Given a parameter's name and a piece of its gradient: the piece divided by the root of Adam's moment."""
        self._measurement: Measurement | None = None
        self._norms: list[list[Tensor]] = []
        self._copies: list[tuple[Tensor, Tensor]] = []
        self._share = self._counted = 0.0
        self._groups: list[_Group] = []
        self._elsewhere: ModuleSquares | None = None
        self._handles: list[RemovableHandle] = []
        self._untold: deque[_Untold | None] = deque(maxlen=_UNTOLD_STEPS)

    @property
    def is_on(self) -> bool:
        """Whether the present step is measured."""
        return self._measurement is not None

    @property
    def wants_halves(self) -> bool:
        """Whether the step's halves are measured."""
        return self._measurement is not None and self._measurement.halves

    @property
    def is_preconditioned(self) -> bool:
        """Whether the engine is to show gradients divided by the root of Adam's second moment."""
        return self._measurement is not None and self._measurement.preconditioned

    @property
    def num_modules(self) -> int:
        """Modules that are told apart in the present step: 1 where none are."""
        return self._all_modules if self._measurement is not None and self._measurement.modules else 1

    def module(self, name: str) -> int:
        """Number of a parameter's module in the present step."""
        return self._module_of[name] if self.num_modules > 1 else 0

    def runs(self, members: Iterable[tuple[str, int]]) -> Runs:
        """Whose elements lie in a flat tensor: of each parameter its name and how many, one after the other."""
        runs: list[tuple[int, int]] = []
        for name, length in members:
            module = self.module(name)
            if runs and runs[-1][0] == module:
                length += runs.pop()[1]
            runs.append((module, length))
        return runs

    def begin_step(self, measurement: Measurement | None) -> None:
        """Before the first micro-batch of a step."""
        self._measurement = measurement
        self._counted = 0.0
        self._open_group()

    def _open_group(self) -> None:
        self._norms, self._copies, self._share = [[] for _ in range(self.num_modules)], [], 0.0

    def watch(self, parameters: Mapping[str, Tensor], totals: Iterable[Tensor | None] = ()) -> None:
        """Until the end of the step take every gradient that reaches these parameters as a piece of a micro-batch's.

        Args:
            parameters: leaves by name, each reached once in a backward.
            totals: for each of them where its gradient of the whole step will lie; may be left out.
        """
        for (name, parameter), total in zip_longest(parameters.items(), totals):
            self.until_finish(parameter.register_hook(partial(self.add_of, name, total)))

    def until_finish(self, handle: RemovableHandle) -> None:
        """Remove a hook at the end of the step."""
        self._handles.append(handle)

    def add_of(self, name: str, total: Tensor | None, piece: Tensor) -> None:
        """Take a parameter's piece of a micro-batch's gradient; arguments as of ``add``."""
        module = self.module(name)
        if self.is_preconditioned and self.metric is not None:
            piece = self.metric(name, piece)
        self.add(piece, [(module, piece.numel())], total)
        if self.wants_halves:
            self.halves.add_piece(name, module, piece, self._counted)

    def add(self, piece: Tensor, runs: Runs, total: Tensor | None = None) -> None:
        """Take a piece of a group's gradient.

        Args:
            piece: of any shape, read at once.
            runs: whose elements they are.
            total: where the same piece of the step's gradient will lie; None where it never does.
        """
        assert self._measurement is not None
        for norms, more in zip(self._norms, module_norms(piece, runs, self.num_modules), strict=True):
            norms += more
        if self._measurement.inner_products and total is not None:
            self._copies.append((piece.detach().clone(), total))

    def count(self, share: float) -> None:
        """A micro-batch that is so large a share of the global batch has been added."""
        if self._measurement is not None:
            self._share += share
            self._counted += share
            if self.per_micro_batch:
                self._close_group()

    def _close_group(self) -> None:
        # A group without samples has weight 0 and no gradient.
        if self._share > 0:
            self._groups.append(_Group(squared_norms(self._norms), self._share, self._copies))
        self._open_group()

    def take_squares(self, squares: ModuleSquares) -> None:
        """Take the groups that others have measured, once over all ranks."""
        self._elsewhere = squares

    def finish(self, parts_of_sum: list[Tensor], *, group_scale: float = 1.0, sum_scale: float = 1.0) -> None:
        """After the sum over ranks; a collective where the step is measured.

        Args:
            parts_of_sum: vectors [modules] that add up to the squared norms of the step's gradient, over them and all
                ranks.
            group_scale: what the pieces were multiplied by.
            sum_scale: what the step's gradient was multiplied by.
        """
        measurement = self._measurement
        if measurement is None:
            self._untold.append(None)
            return
        self._close_group()
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        groups, self._groups = self._groups, []
        like = parts_of_sum[0]
        numbers = [
            _total([group.squares / (group.share * group_scale**2) for group in groups], like),
            _total([part / sum_scale**2 for part in parts_of_sum], like),
            torch.full_like(like[:1], len(groups)),
        ]
        if self._elsewhere is not None:
            numbers[0] = numbers[0] + numbers[0].new_tensor(self._elsewhere.sums)
            numbers[2] = numbers[2] + self._elsewhere.num_groups
            self._elsewhere = None
        if measurement.halves:
            numbers.append(self.halves.take_squares(like).flatten() / group_scale**2)
        if measurement.inner_products:
            numbers += self._slots(groups, measurement.num_samples, group_scale * sum_scale, like=like[:1])
        message = torch.cat(numbers)
        if self._collectives.world_size > 1:
            message = message.to(self._collectives.device, non_blocking=True)
        self._untold.append(
            _Untold(measurement, self.num_modules, message, self._collectives.sum_(message, wait=False))
        )
        self._measurement = None

    def _slots(self, groups: list[_Group], num_samples: int, scale: float, like: Tensor) -> list[Tensor]:
        """A place for the size and then one for the product of every group of all ranks: zeros for others' groups."""
        rank, world_size = self._collectives.rank, self._collectives.world_size
        first, num_places = (0, len(groups)) if world_size == 1 else (rank, world_size)
        sizes, products = ([torch.zeros_like(like) for _ in range(num_places)] for _ in range(2))
        for place, group in enumerate(groups, first):
            sizes[place].fill_(round(group.share * num_samples))
            products[place] = _total([inner_product(*pair) for pair in group.copies], like) / (group.share * scale)
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


def _total(numbers: list[Tensor], like: Tensor) -> Tensor:
    """Sum of vectors, on the device of ``like``, which has their form."""
    return sum((number.to(like.device) for number in numbers), torch.zeros_like(like))


class _Untold:
    """The numbers of one step, perhaps still on their way.

    From a GPU they are copied behind the work of their own step: read later, they do not wait for the next one's.
    """

    def __init__(self, measurement: Measurement, num_modules: int, message: Tensor, work: dist.Work | None) -> None:
        self._measurement = measurement
        self._num_modules = num_modules
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
        values = self._values()
        if not all(map(math.isfinite, values)):
            return None
        measurement, rest = self._measurement, iter(values)
        mean_squares, norms_sq = (list(islice(rest, self._num_modules)) for _ in range(2))
        num_groups = int(next(rest))
        halves = [list(islice(rest, self._num_modules)) for _ in range(2)] if measurement.halves else None
        slots = list(rest)
        sizes, products = slots[: len(slots) // 2], slots[len(slots) // 2 :]
        filled = [index for index, size in enumerate(sizes) if size > 0]
        num_samples = measurement.num_samples
        return GroupNorms(
            sum_weighted_sq=sum(mean_squares) * num_samples,
            norm_sq=sum(norms_sq),
            num_groups=num_groups,
            num_samples=num_samples,
            group_sizes=tuple(int(sizes[index]) for index in filled) if slots else None,
            inner_products=tuple(products[index] for index in filled) if slots else None,
            for_controller=measurement.for_controller,
            modules=tuple(
                ModuleNorms(
                    sum_weighted_sq=mean_square * num_samples,
                    norm_sq=norm_sq,
                    halves_sq=None if halves is None else (halves[0][module], halves[1][module]),
                )
                for module, (mean_square, norm_sq) in enumerate(zip(mean_squares, norms_sq, strict=True))
            )
            if measurement.modules
            else None,
        )

    def state(self) -> dict[str, Any]:
        """JSON values."""
        return {
            **asdict(self._measurement),
            "num_modules": self._num_modules,
            # JSON has no infinity.
            "values": [value if math.isfinite(value) else None for value in self._values()],
        }

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> _Untold:
        """Of ``state``."""
        fields = dict(state)
        values = [math.nan if value is None else value for value in fields.pop("values")]
        num_modules = fields.pop("num_modules", 1)
        return cls(Measurement(**fields), num_modules, torch.tensor(values, dtype=torch.float64), None)
