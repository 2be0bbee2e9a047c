"""AGVM: every module's learning rate is adapted so that its updates are as noisy as those of an anchor."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from orchestrator.core.collectives import Collectives
from orchestrator.core.gradient_stats import GroupNorms, noise_share, split_share
from orchestrator.core.staleness import Staleness
from orchestrator.spec.methods.gradient_modulators import Agvm

STABILITY = 1e-6
"""Added to both variances of a ratio."""


def variance_ratios(variances: Sequence[float], anchor: int, bounds: tuple[float, float]) -> list[float]:
    """r_i = sqrt(clamp((phi_anchor + 1e-6) / (phi_i + 1e-6), bounds)) of every module.

    Args:
        variances: phi_i = 1 - cos of two halves' gradients, each at least 0.
        anchor: index of the module that the others follow.
        bounds: least and greatest ratio of two variances.
    """
    low, high = bounds
    ratios = ((variances[anchor] + STABILITY) / (max(phi, 0.0) + STABILITY) for phi in variances)
    return [math.sqrt(min(max(ratio, low), high)) for ratio in ratios]


class VarianceModulation:
    """Adaptive gradient variance modulator (arXiv 2210.11078). Satisfies ``core.protocols.MeasuringModulator``.

    Every ``every`` steps after the warmup, of each module i of the model::

        phi_i = 1 - cos(G_A,i , G_B,i)            of the gradients of two halves of the batch
        r_i   = sqrt(clamp(phi_anchor / phi_i))
        mu_i <- decay mu_i + (1 - decay) r_i      from 1 on
        w_i  <- w_i - lr mu_i u_i                 u the optimizer's own direction, weight decay in it

    Only norms are exchanged (``core/gradient_stats.py``): with ``estimator: split`` those of the two halves' sums,
    with ``norms`` those of all workers' or micro-batches' gradients, which give the mean over all balanced halvings.

    Args:
        config: ``every``, ``decay`` in [0, 1), ``bounds``, ``anchor``, ``estimator``.

    Differences from the paper and its code: factors change two steps after the step that was measured, as nobody
    waits for the numbers; the preconditioned form takes the second moment that both halves share, before the step,
    where the official code lets each half's own gradient enter it.
    """

    def __init__(self, config: Agvm) -> None:
        self._config = config
        self._names: tuple[str, ...] = ()
        self._factors: list[float] = []
        self._variances: list[float] = []
        self._groups: list[tuple[int, float, dict[str, Any]]] = []

    def divide(self, optimizer: torch.optim.Optimizer, names: Sequence[str], module_of: Mapping[Tensor, int]) -> None:
        """See ``core.protocols.MeasuringModulator``.

        Raises:
            ValueError: where ``anchor`` is no module; the recipe's modules are checked before.
        """
        self._names = tuple(names)
        self._anchor = 0 if self._config.anchor is None else self._names.index(self._config.anchor)
        self._factors = self._factors or [1.0] * len(names)
        optimizer.param_groups[:] = [part for group in optimizer.param_groups for part in divided(group, module_of)]
        self._groups = [
            (module_of[group["params"][0]], group.get("lr_multiplier", 1.0), group) for group in optimizer.param_groups
        ]
        self._apply()

    def attach(self, optimizer: torch.optim.Optimizer, staleness: Staleness, collectives: Collectives | None) -> None:
        """Nothing to watch: the factors are in the optimizer's groups."""

    @property
    def halves(self) -> bool:
        """See ``core.protocols.MeasuringModulator``."""
        return self._config.estimator == "split"

    @property
    def preconditioned(self) -> bool:
        """See ``core.protocols.MeasuringModulator``."""
        return self._config.preconditioned

    def wants(self, step: int, *, is_warmup: bool) -> bool:
        """See ``core.protocols.MeasuringModulator``."""
        start = self._config.start_step
        has_begun = not is_warmup if start is None else step >= start
        return has_begun and step % self._config.every == 0

    def take(self, norms: GroupNorms) -> None:
        """See ``core.protocols.MeasuringModulator``; a step of fewer than two groups says nothing and is left out."""
        if norms.num_groups < 2:
            return
        share = split_share if self.halves else noise_share
        self._variances = [share(norms, module) for module in range(len(self._names))]
        ratios = variance_ratios(self._variances, self._anchor, self._config.bounds)
        decay = self._config.decay
        self._factors = [decay * mu + (1 - decay) * r for mu, r in zip(self._factors, ratios, strict=True)]
        self._apply()

    def _apply(self) -> None:
        for module, multiplier, group in self._groups:
            group["lr_multiplier"] = multiplier * self._factors[module]

    def report(self) -> dict[str, Tensor]:
        """``agvm/<module>/factor``: mu; ``agvm/<module>/variance``: phi as it was measured last."""
        found = {f"agvm/{name}/factor": mu for name, mu in zip(self._names, self._factors, strict=True)}
        found |= {f"agvm/{name}/variance": phi for name, phi in zip(self._names, self._variances, strict=False)}
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in found.items()}

    def state_dict(self) -> dict[str, Any]:
        """JSON values: the modules' factors and last variances."""
        return {"names": list(self._names), "factors": self._factors, "variances": self._variances}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore ``state_dict``."""
        self._factors, self._variances = list(state["factors"]), list(state["variances"])
        self._apply()


def divided(group: dict[str, Any], module_of: Mapping[Tensor, int]) -> list[dict[str, Any]]:
    """A group of the optimizer's divided by modules, in the order of their first parameters."""
    per_parameter = [key for key in ("params", "param_names") if key in group]
    places: dict[int, list[int]] = {}
    for place, parameter in enumerate(group["params"]):
        places.setdefault(module_of[parameter], []).append(place)
    return [{**group, **{key: [group[key][i] for i in own] for key in per_parameter}} for own in places.values()]
