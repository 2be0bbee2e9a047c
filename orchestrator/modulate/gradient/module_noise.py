"""The gradient noise scale of each module of a model, for the records."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from orchestrator.core.collectives import Collectives
from orchestrator.core.gradient_stats import GroupNorms, RunningStatistic, of_module
from orchestrator.core.staleness import Staleness
from orchestrator.modulate.gradient.agvm import divided
from orchestrator.spec.methods.gradient_modulators import ModuleNoise


class ModuleNoiseMeter:
    """The simple noise scale (arXiv 1812.06162, appendix A) of modules.

    Satisfies ``core.protocols.MeasuringModulator``.

    Every ``every`` steps, of each module i of the model, with S and G2 as ``core.gradient_stats`` estimates them of its
    parameters' gradients alone::

        noise scale_i = (average of S_i) / (average of G2_i)

    The traces and the squared norms of all modules add up to those of the model; their ratios do not. Gradients stay as
    they are.

    Args:
        config: ``every``, ``half_life_steps``, ``preconditioned``.
    """

    halves = False

    def __init__(self, config: ModuleNoise) -> None:
        self._config = config
        self.preconditioned = config.preconditioned
        self._names: tuple[str, ...] = ()
        self._statistics: list[RunningStatistic] = []

    def divide(self, optimizer: torch.optim.Optimizer, names: Sequence[str], module_of: Mapping[Tensor, int]) -> None:
        """See ``core.protocols.MeasuringModulator``; ZeRO shows gradients of whole groups of the optimizer only."""
        optimizer.param_groups[:] = [part for group in optimizer.param_groups for part in divided(group, module_of)]
        self._names = tuple(names)
        self._statistics = self._statistics or [RunningStatistic(self._config.half_life_steps) for _ in names]

    def attach(self, optimizer: torch.optim.Optimizer, staleness: Staleness, collectives: Collectives | None) -> None:
        """Nothing to watch."""

    def wants(self, step: int, *, is_warmup: bool) -> bool:
        """See ``core.protocols.MeasuringModulator``; there is no second moment before the first step."""
        return step % self._config.every == 0 and not (self.preconditioned and step == 0)

    def take(self, norms: GroupNorms) -> None:
        """See ``core.protocols.MeasuringModulator``; a step of fewer than two groups says nothing and is left out."""
        for module, statistic in enumerate(self._statistics):
            statistic.update(of_module(norms, module), statistic.num_observations * self._config.every)

    def report(self) -> dict[str, Tensor]:
        """``module_noise/<module>/noise``, ``signal`` and ``scale``, in samples, where it is finite."""
        found: dict[str, float] = {}
        for name, statistic in zip(self._names, self._statistics, strict=True):
            numbers = {"noise": statistic.noise, "signal": statistic.signal, "scale": statistic.noise_scale}
            found |= {f"module_noise/{name}/{kind}": value for kind, value in numbers.items() if math.isfinite(value)}
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in found.items()}

    def state_dict(self) -> dict[str, Any]:
        """JSON values: the modules' averages."""
        return {"names": list(self._names), "statistics": [one.state_dict() for one in self._statistics]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore ``state_dict``."""
        self._statistics = [RunningStatistic(self._config.half_life_steps) for _ in state["statistics"]]
        for statistic, saved in zip(self._statistics, state["statistics"], strict=True):
            statistic.load_state_dict(saved)
