"""LAWN, Adam on weights whose norms are held after a free start, exact on whole and on divided parameters."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from orchestrator.core.collectives import Collectives
from orchestrator.core.reduction import Reduction
from orchestrator.core.sums import sum_of_products, sum_of_squares
from orchestrator.optim.grouping import parameter_groups
from orchestrator.optim.layerwise import LayerwiseBase, Part
from orchestrator.optim.moments import denominator, move_moments_
from orchestrator.spec.methods.layerwise_optimizers import Lawn as LawnConfig


class Lawn(LayerwiseBase):
    """LAWN with Adam as its base (arXiv 2108.05839), as we read it: only the paper's abstract is known to us.

    The first ``free_steps`` steps are Adam's, without weight decay. Then the norm C = ||p|| of every constrained
    parameter is kept, and each further step moves along the sphere of that radius::

        h = g - <g, p> / ||p||^2 p              m, v = Adam's moments of h
        d = Adam's direction                    e = d - <d, p> / ||p||^2 p
        q = p - eta e                           p = C q / ||q||,  ||q||^2 = ||p||^2 + eta^2 ||e||^2

    What the abstract leaves open are options: who is constrained, whether the moments start anew, and how long the
    start is. Two reductions for each constrained step, none before.

    Args:
        params: tensors or groups; a group's ``adapt`` says whether its parameters are constrained.
        lr: eta, >= 0.
        betas: (beta1, beta2), each in [0, 1).
        eps: > 0.
        free_steps: >= 0.
        constrain: ``matrices``, parameters of two dimensions or more, or ``all``.
        reset_moments: whether the moments are zeroed when the norms are first held.
    """

    per_parameter_state: ClassVar[frozenset[str]] = frozenset({"held_norm"})

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        *,
        free_steps: int,
        constrain: Literal["matrices", "all"] = "matrices",
        reset_moments: bool = False,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})
        self._free_steps = free_steps
        self._constrain = constrain
        self._reset_moments = reset_moments

    def _new_state(self, tensor: Tensor) -> dict[str, Tensor]:
        return {
            "exp_avg": torch.zeros_like(tensor),
            "exp_avg_sq": torch.zeros_like(tensor),
            "held_norm": self._new_numbers(tensor),
        }

    def _update(self, parts: list[Part], reduction: Reduction) -> None:
        held = [row for row, part in enumerate(parts) if self._is_held(part)]
        for part in parts:
            if not self._is_held(part):
                self._average(part, part.gradient())
                part.of(part.tensor).sub_(self._direction(part), alpha=part.group["lr"])
        # Every rank has the same parameters and counters, so all of them come here or none.
        if held:
            self._move_on_spheres([parts[row] for row in held], reduction.of_rows(held))

    def _is_held(self, part: Part) -> bool:
        is_constrained = part.group.get("adapt", self._constrain == "all" or len(part.shape) > 1)
        return bool(is_constrained) and int(self.state[part.tensor]["step"]) > self._free_steps

    def _move_on_spheres(self, parts: list[Part], reduction: Reduction) -> None:
        sums = reduction.whole(
            torch.stack([_against_weights(part, part.gradient(), of_weights=True) for part in parts])
        )
        for part, (inner, square) in zip(parts, sums, strict=True):
            if int(self.state[part.tensor]["step"]) == self._free_steps + 1:
                self._hold(part, square)
            self._average(part, _tangential(part, part.gradient(), inner, square))
        # Directions are computed again rather than kept: all of them at once would be another copy of the model.
        more = reduction.whole(torch.stack([_against_weights(part, self._direction(part)) for part in parts]))
        for part, (_, square), (inner, length) in zip(parts, sums, more, strict=True):
            p, lr = part.of(part.tensor), part.group["lr"]
            moved = square + lr**2 * (length - _quotient(inner * inner, square))
            scale = torch.where(moved > 0, self._number(part, "held_norm") / moved.sqrt(), torch.ones_like(moved))
            p.sub_(_tangential(part, self._direction(part), inner, square), alpha=lr).mul_(scale)

    def _hold(self, part: Part, square: Tensor) -> None:
        self._number(part, "held_norm").copy_(square.sqrt())
        if self._reset_moments:
            state = self.state[part.tensor]
            part.of(state["exp_avg"]).zero_()
            part.of(state["exp_avg_sq"]).zero_()

    def _average(self, part: Part, gradient: Tensor) -> None:
        (beta1, beta2), state = part.group["betas"], self.state[part.tensor]
        m, v = part.of(state["exp_avg"]), part.of(state["exp_avg_sq"])
        move_moments_(m, v, gradient, beta1=beta1, beta2=beta2)

    def _direction(self, part: Part) -> Tensor:
        """Adam's direction, a new tensor."""
        (beta1, beta2), state = part.group["betas"], self.state[part.tensor]
        step = int(state["step"])
        if self._reset_moments and self._is_held(part):
            step -= self._free_steps
        root = denominator(part.of(state["exp_avg_sq"]), 1 - beta2**step, part.group["eps"])
        direction: Tensor = (part.of(state["exp_avg"]) / (1 - beta1**step)).div_(root)
        return direction


def _against_weights(part: Part, x: Tensor, *, of_weights: bool = False) -> Tensor:
    """<x, p>, and ||p||^2 or else ||x||^2, [2]."""
    p = part.of(part.tensor)
    return torch.stack([sum_of_products(x, p), sum_of_squares(p if of_weights else x)])


def _tangential(part: Part, x: Tensor, inner: Tensor, square: Tensor) -> Tensor:
    """What of x does not lie along p, a new tensor."""
    return x - _quotient(inner, square).to(x.dtype) * part.of(part.tensor)


def _quotient(a: Tensor, square: Tensor) -> Tensor:
    """What a is of ||p||^2, 0 where p is 0."""
    return torch.where(square > 0, a / square, torch.zeros_like(a))


def build_lawn(config: LawnConfig, model: nn.Module, collectives: Collectives) -> torch.optim.Optimizer:
    """Lawn over the model's trainable parameters."""
    return Lawn(
        parameter_groups(model, config),
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        free_steps=config.free_steps,
        constrain=config.constrain,
        reset_moments=config.reset_moments,
    )
