"""Optimizers of packages, with all of their state in tensors of their parameters, to be saved and divided with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor


class StateInTensors(torch.optim.Optimizer):
    """Another optimizer, with what it carries from step to step in its groups kept beside the state of each parameter.

    A number of a group would not be saved with the parameters. It would also run ahead where an engine steps on one
    part of a group after another: ZeRO divides a group, and a step on a part is a step of the group. So before each
    step the groups are given the numbers of the parameters that they hold, and afterwards the parameters take them
    back, as tensors of no dimension.

    Args:
        inner: the optimizer; it owns the parameters' state and the mathematics.
        numbers: what it carries in its groups, with the values before the first step: a number, or a tensor of one
            element.
        create_state: state of a parameter before its first step, from its group, for an optimizer that makes it when
            it is built, which is before an engine divides the parameters.
    """

    def __init__(
        self,
        inner: torch.optim.Optimizer,
        numbers: Mapping[str, int | float | Tensor],
        create_state: Callable[[dict[str, Any], Tensor], dict[str, Tensor]] | None = None,
    ) -> None:
        super().__init__(inner.param_groups, inner.defaults)
        inner.state.clear()
        self._inner = inner
        self._numbers = dict(numbers)
        self._create_state = create_state

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step of the inner optimizer."""
        # Engines put other groups and other parameters in place.
        self._inner.param_groups, self._inner.state = self.param_groups, self.state
        for group in self.param_groups:
            self._hand_over(group)
        loss = self._step_inner(closure)
        for group in self.param_groups:
            self._take_back(group)
        return loss

    def _step_inner(self, closure: Callable[[], float] | None) -> float | None:
        return self._inner.step(closure)

    def _hand_over(self, group: dict[str, Any]) -> None:
        for parameter in group["params"]:
            if self._create_state is not None and not self.state[parameter]:
                self.state[parameter].update(self._create_state(group, parameter))
        for parameter in group["params"][:1]:  # they all have the same
            for name, first in self._numbers.items():
                group[name] = _in_form_of(first, self.state[parameter].get(name, first), parameter.device)

    def _take_back(self, group: dict[str, Any]) -> None:
        numbers = {name: float(group[name]) for name in self._numbers if group["params"]}
        for parameter in group["params"]:
            state = self.state[parameter]
            for name, value in numbers.items():
                if name not in state:
                    # As in torch.optim: a step is float32, on the host.
                    state[name] = torch.zeros((), dtype=torch.float32 if name == "step" else torch.float64)
                state[name].fill_(value)


def _in_form_of(form: float | Tensor, value: float | Tensor, device: torch.device) -> int | float | Tensor:
    """A number as the inner optimizer has it in its groups."""
    if isinstance(form, Tensor):
        return torch.full_like(form, float(value), device=device)
    return type(form)(value)
