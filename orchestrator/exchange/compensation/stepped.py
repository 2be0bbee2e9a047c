"""The parameters of a step with their gradients and state, and the defaults of what a compensation may do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from orchestrator.core.staleness import Staleness


@dataclass(frozen=True, slots=True)
class Stepped:
    """One parameter of a step of ``torch.optim.SGD``."""

    parameter: nn.Parameter
    gradient: Tensor
    state: dict[str, Any]
    lr: float
    momentum: float
    weight_decay: float
    """That the optimizer adds to the gradient."""

    def number(self, name: str) -> Tensor:
        """A number among the state of the parameter, 0 at first: a scalar that may be written to."""
        if name not in self.state:
            self.state[name] = torch.zeros((), dtype=torch.float64)
        value: Tensor = self.state[name]
        return value

    def zeros(self, name: str) -> Tensor:
        """A tensor among the state of the parameter, of its shape, zeros at first."""
        if name not in self.state:
            self.state[name] = torch.zeros_like(self.parameter, memory_format=torch.preserve_format)
        value: Tensor = self.state[name]
        return value


def stepped(optimizer: torch.optim.Optimizer) -> Iterator[Stepped]:
    """The parameters that a step moves."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None:
                state = optimizer.state[parameter]
                hyperparameters = (float(group[name]) for name in ("lr", "momentum", "weight_decay"))
                yield Stepped(parameter, parameter.grad, state, *hyperparameters)


class CompensationBase:
    """A compensation that does nothing. Satisfies ``core.protocols.Compensation``.

    What subclasses remember lies in the optimizer's state, made in its first step whatever the gradients are.
    """

    def attach(self, optimizer: torch.optim.Optimizer, staleness: Staleness) -> None:
        """See ``core.protocols.Compensation``."""
        self._optimizer = optimizer
        self._staleness = staleness

    def factor(self, delay: int) -> float:
        """See ``core.protocols.Compensation``."""
        return 1.0

    def offset(self, parameter: nn.Parameter) -> Tensor | None:
        """See ``core.protocols.Compensation``."""
        return None

    def _moved(self, parameter: nn.Parameter) -> Tensor | None:
        """What the weights have moved by since the gradient was computed; None is nothing."""
        if self._staleness.delay == 0:
            return None
        assert self._staleness.read_weights is not None  # every exchange with a delay gives them
        return parameter.detach() - self._staleness.read_weights(parameter)


class LookAhead(CompensationBase):
    """Sends weights out where they are expected to be: -lr x ``_distance`` away.

    The learning rate is that of the last step, which is kept beside the momentum: a resumed job begins with another.
    """

    def attach(self, optimizer: torch.optim.Optimizer, staleness: Staleness) -> None:
        """See ``core.protocols.Compensation``."""
        super().attach(optimizer, staleness)
        optimizer.register_step_post_hook(self._after_step)

    def offset(self, parameter: nn.Parameter) -> Tensor | None:
        """See ``core.protocols.Compensation``."""
        state = self._optimizer.state.get(parameter, {})
        if "last_lr" not in state:
            return None
        distance: Tensor = state["momentum_buffer"] * (
            -float(state["last_lr"]) * self._reach(self._momentum(parameter))
        )
        return distance

    def _reach(self, momentum: float) -> float:
        """Steps of the present velocity that the weights are expected to take."""
        raise NotImplementedError

    def _momentum(self, parameter: nn.Parameter) -> float:
        groups = self._optimizer.param_groups
        return float(next(g["momentum"] for g in groups if any(p is parameter for p in g["params"])))

    def _after_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        for each in stepped(optimizer):
            each.number("last_lr").fill_(each.lr)
