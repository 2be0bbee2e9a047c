"""AdaHessian of pytorch_optimizer, with the Hessian's diagonal as the engine estimates it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytorch_optimizer
from torch import Tensor, nn

from orchestrator.core.collectives import Collectives
from orchestrator.optim.grouping import parameter_groups
from orchestrator.optim.state_in_tensors import StateInTensors
from orchestrator.spec.methods.loss_optimizers import AdaHessian as AdaHessianConfig

_ESTIMATE = "hessian"
"""Where the package keeps the estimate that it was given last."""


class AdaHessian(StateInTensors):
    """The package's optimizer, stepping on estimates that it is given instead of differentiating by itself."""

    _estimates: Mapping[Tensor, Tensor] | None = None

    def take_curvature(self, estimates: Mapping[Tensor, Tensor]) -> None:
        """An estimate of the Hessian's diagonal for the step that comes next, by parameter."""
        self._estimates = estimates

    def _step_inner(self, closure: Callable[[], float] | None) -> float | None:
        if self._estimates is None:
            raise RuntimeError("AdaHessian has no estimate for this step: call take_curvature() before step().")
        estimates, self._estimates = self._estimates, None
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        inner: Any = self._inner
        loss: float | None = inner.step(closure, hessian=[estimates[p] for p in parameters])
        for parameter in parameters:
            # The next step brings another: no checkpoint needs this one.
            del self.state[parameter][_ESTIMATE]
        return loss


def build_adahessian(config: AdaHessianConfig, model: nn.Module, collectives: Collectives) -> AdaHessian:
    """pytorch_optimizer's AdaHessian over the model's trainable parameters."""
    inner = pytorch_optimizer.AdaHessian(
        parameter_groups(model, config),
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        weight_decouple=config.decoupled_weight_decay,
        hessian_power=config.hessian_power,
        foreach=next(model.parameters()).is_cuda,
    )
    return AdaHessian(inner, {"step": 0})
