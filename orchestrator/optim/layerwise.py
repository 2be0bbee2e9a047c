"""The base of optimizers whose step needs sums over whole parameters, however the engine divides them.

One step in its parts::

    parts = what this rank holds of each parameter      the same parameters in the same order on every rank
    sums  = elementwise work over the parts             [parameters, sums of each], float64, on this rank's elements
    all-reduce of sums                                  one flat message; none where nothing is divided
    elementwise work with the finished sums             no host waits for a device anywhere

What divides is seen from the parameters: DTensors (FSDP2, hybrid sharding, tensor parallelism) say it themselves,
flat partitions (ZeRO) are told by ``attach``, and whatever else is whole.
"""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from orchestrator.core.errors import UnsupportedLayoutError
from orchestrator.core.host_copies import on_host
from orchestrator.core.layout import Run, ShardLayout, by_partition
from orchestrator.core.reduction import NOTHING_DIVIDED, Reduction, reduction_of_dtensors


@dataclass(frozen=True, slots=True)
class Part:
    """What this rank holds of one parameter."""

    name: str
    """Of the parameter, for people."""
    tensor: Tensor
    """What the optimizer steps on and keeps state for: the parameter, or a flat partition with many of them."""
    group: dict[str, Any]
    """The tensor's ``param_groups`` entry."""
    shape: tuple[int, ...]
    """Shape of the whole parameter."""
    run: Run | None
    """Where the parameter lies in a flat partition; None where the tensor is the parameter."""
    index: int
    """Number of the parameter among those of its tensor."""

    def of(self, like: Tensor) -> Tensor:
        """This rank's elements of the parameter in any tensor that lies as ``tensor`` does."""
        if self.run is not None:
            return self.run.view(like)
        return local_elements(like)

    def gradient(self) -> Tensor:
        """This rank's elements of the gradient; zeros where no loss has reached the parameter.

        Raises:
            RuntimeError: where it is sparse.
            UnsupportedLayoutError: where the gradient is divided in another way than the parameter.
        """
        gradient = self.tensor.grad
        if gradient is None:
            return torch.zeros_like(self.of(self.tensor))
        if gradient.is_sparse:
            raise RuntimeError(f"The gradient of {self.name} is sparse; layer-wise optimizers take dense ones only.")
        theirs, ours = getattr(gradient, "placements", None), getattr(self.tensor, "placements", None)
        if theirs != ours:
            raise UnsupportedLayoutError(
                f"The gradient of {self.name} lies as {theirs}, the parameter as {ours}: sum it over ranks first."
            )
        return self.of(gradient)


class LayerwiseBase(torch.optim.Optimizer, ABC):
    """An optimizer whose step is elementwise work around sums over whole parameters.

    Subclasses give ``_update``, which works on all parameters of one call: engines may call ``step`` for some of the
    groups at a time. State lies as the tensors do, under torch's names; step counters are tensors per tensor.

    Args:
        params: tensors or groups, as torch.optim takes them; named ones appear in reports by their names.
        defaults: of the groups' options.
        log_layers_every: steps between two reports of every layer; None reports the extremes only.

    Raises:
        ValueError: on an option that is out of its range.
    """

    per_parameter_state: ClassVar[frozenset[str]] = frozenset()
    """Names of state that is one number for each parameter: [parameters of the tensor], or a scalar."""

    def __init__(self, params: Any, defaults: dict[str, Any], *, log_layers_every: int | None = None) -> None:
        self._known: dict[int, weakref.ref[Tensor]] = {}
        self._layout: dict[int, list[tuple[str, Run]]] = {}
        self._layout_reduction = NOTHING_DIVIDED
        self._calls: dict[tuple[tuple[int, int], ...], tuple[list[Part], Reduction]] = {}
        self._last: dict[int, _Done] = {}
        self._log_layers_every = log_layers_every
        check_ranges(defaults)
        super().__init__(params, defaults)

    def runs_on(self) -> str:
        """What runs the step, for people."""
        return "eager"

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Take further tensors, as torch.optim does; these are known to be whole, or DTensors."""
        super().add_param_group(param_group)
        self._known.update((id(tensor), weakref.ref(tensor)) for tensor in self.param_groups[-1]["params"])

    def attach(self, layout: ShardLayout) -> None:
        """Learn where parameters lie that were laid into flat partitions."""
        self._layout = {id(members[0][1].flat): members for members in by_partition(layout.runs)}
        self._layout_reduction = Reduction.over(layout.collectives)
        self._calls.clear()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step; a collective where parameters are divided.

        Raises:
            RuntimeError: on a sparse gradient.
            UnsupportedLayoutError: on a flat tensor of which nobody said what lies in it.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        parts, reduction = self._call()
        if parts:
            self._count_step({id(part.tensor): part.tensor for part in parts}.values())
            self._update(parts, reduction)
        return loss

    @abstractmethod
    def _update(self, parts: list[Part], reduction: Reduction) -> None:
        """Move the parameters of one call. Every rank adds its sums, those that hold no element too."""

    @abstractmethod
    def _new_state(self, tensor: Tensor) -> dict[str, Tensor]:
        """State of one tensor before its first step, without its step counter."""

    def _count_step(self, tensors: Collection[Tensor]) -> None:
        for tensor in tensors:
            if not self.state[tensor]:
                # On the host, as torch.optim has it.
                self.state[tensor] = {"step": torch.zeros((), dtype=torch.float32), **self._new_state(tensor)}
        torch._foreach_add_([self.state[tensor]["step"] for tensor in tensors], 1)

    def _some_tensor(self) -> Tensor:
        """This rank's part of one of the tensors that the optimizer steps on: they are of one type on one device."""
        flats = [runs[0][1].flat for runs in self._layout.values()]
        return local_elements((flats or [tensor for group in self.param_groups for tensor in group["params"]])[0])

    def _new_numbers(self, tensor: Tensor) -> Tensor:
        """A zero for each parameter of a tensor, [parameters] for a flat partition, else a scalar."""
        runs = self._layout.get(id(tensor))
        return torch.zeros(() if runs is None else (len(runs),), device=local_elements(tensor).device)

    def _number(self, part: Part, key: str) -> Tensor:
        """A parameter's own number in ``per_parameter_state``, a scalar that may be written to."""
        numbers: Tensor = self.state[part.tensor][key]
        return numbers if numbers.dim() == 0 else numbers[part.index]

    def _call(self) -> tuple[list[Part], Reduction]:
        """The parts of the tensors that this call steps on, and how their sums become whole."""
        given = [(tensor, group, index) for group in self.param_groups for index, tensor in enumerate(group["params"])]
        # Where anything is divided, ranks must agree on who takes part, and a rank's own gradients are no sign of it.
        is_divided = any(isinstance(tensor, DTensor) for tensor, _, _ in given)
        present = [
            entry
            for entry in given
            if entry[0].grad is not None or id(entry[0]) in self._layout or (is_divided and entry[0].requires_grad)
        ]
        # Groups are replaced when state is loaded.
        key = tuple((id(tensor), id(group)) for tensor, group, _ in present)
        if key not in self._calls:
            parts = [part for tensor, group, index in present for part in self._parts(tensor, group, index)]
            self._calls[key] = parts, self._reduction([tensor for tensor, _, _ in present])
        return self._calls[key]

    def _parts(self, tensor: Tensor, group: dict[str, Any], index: int) -> list[Part]:
        runs = self._layout.get(id(tensor))
        if runs is not None:
            return [Part(name, tensor, group, run.shape, run, i) for i, (name, run) in enumerate(runs)]
        if not isinstance(tensor, DTensor) and not self._is_whole(tensor):
            raise UnsupportedLayoutError(
                f"{type(self).__name__} was given a tensor of shape {tuple(tensor.shape)} that may hold parts of many "
                "parameters, whose norms are not those of the parameters. Tell it what lies there with attach()."
            )
        names = group.get("param_names", ())
        name = names[index] if index < len(names) else f"parameter {index}"
        return [Part(name, tensor, group, tuple(tensor.shape), None, 0)]

    def _is_whole(self, tensor: Tensor) -> bool:
        """Whether a plain tensor is one that the optimizer was made with, and nobody has flattened."""
        known = self._known.get(id(tensor))
        return known is not None and known() is tensor and not hasattr(tensor, "_fsdp_flattened")

    def _reduction(self, tensors: Sequence[Tensor]) -> Reduction:
        if any(id(tensor) in self._layout for tensor in tensors):
            return self._layout_reduction
        return reduction_of_dtensors(tensors)

    def _remember(self, parts: list[Part], adapted: Sequence[bool], describe: Callable[[], dict[str, Tensor]]) -> None:
        """Keep what a call did for ``report``: vectors over the parts by name, ``trust_ratio`` among them."""
        step = int(self.state[parts[0].tensor]["step"])
        self._last[id(parts[0].tensor)] = _Done(step, [part.name for part in parts], list(adapted), describe)

    def report(self) -> dict[str, Tensor]:
        """What the last step did to each layer.

        Returns:
            ``trust_ratio/min``, ``/median``, ``/max`` over the adapted layers, and where due one entry for every
            layer and vector, ``trust_ratio/<parameter>`` and so on: scalars in host memory.
        """
        done, self._last = list(self._last.values()), {}
        if not done:
            return {}
        step = max(call.step for call in done)
        # What only made room for state that was then loaded is of another step.
        calls = [call for call in done if call.step == step]
        described = [call.describe() for call in calls]
        vectors = {key: torch.cat([vector[key] for vector in described]) for key in described[0]}
        adapted = [row for row, is_one in enumerate(chain.from_iterable(call.adapted for call in calls)) if is_one]
        facts: dict[str, Tensor] = {}
        if adapted:
            vector = vectors["trust_ratio"]
            # A list as an index would be copied to the device by a copy that is waited for.
            ratios = vector.index_select(0, torch.tensor(adapted).to(vector.device, non_blocking=True))
            extremes = on_host(torch.stack([ratios.min(), ratios.median(), ratios.max()]))
            facts.update(zip(("trust_ratio/min", "trust_ratio/median", "trust_ratio/max"), extremes, strict=True))
        if self._log_layers_every is not None and step % self._log_layers_every == 0:
            names = [name for call in calls for name in call.names]
            for key, vector in vectors.items():
                facts.update({f"{key}/{name}": value for name, value in zip(names, on_host(vector), strict=True)})
        return facts

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError(f"{type(self).__name__} cannot be copied: make another and give it this one's state_dict().")


@dataclass(frozen=True, slots=True)
class _Done:
    """What one call of a step did."""

    step: int
    names: list[str]
    adapted: list[bool]
    describe: Callable[[], dict[str, Tensor]]


def local_elements(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor, without a history."""
    return tensor.to_local().detach() if isinstance(tensor, DTensor) else tensor.detach()


def check_ranges(options: dict[str, Any]) -> None:
    """Hold what every optimizer takes to its range, as torch.optim does.

    Raises:
        ValueError: on a negative rate, eps or decay, or an average's decay outside [0, 1).
    """
    for name in ("lr", "eps", "weight_decay"):
        # Adafactor and CAME have several eps, which their own classes know.
        if isinstance(options.get(name), int | float) and not options[name] >= 0:
            raise ValueError(f"{name} is {options[name]}; it must be at least 0.")
    for value in (*options.get("betas", ()), *([options["momentum"]] if "momentum" in options else [])):
        if not 0 <= value < 1:
            raise ValueError(f"betas and momentum must be in [0, 1); one is {value}.")


def is_adapted(group: dict[str, Any], *, everything: bool) -> bool:
    """Whether the parameters of a group are adapted: as it says itself, else all, or those with weight decay."""
    return bool(group.get("adapt", everything or group["weight_decay"] > 0))
