"""What types cannot see of an optimizer's arguments."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from orchestrator.spec.job import JobSpec
from orchestrator.spec.methods.engines import HESSIAN_PRODUCTS
from orchestrator.spec.methods.layerwise_optimizers import Lans, Lars, Lawn
from orchestrator.spec.methods.optimizers import Lamb, LayerwiseBase, Sgd
from orchestrator.spec.problems import Problem, shown


def nesterov_problems(spec: JobSpec, folder: Path) -> Iterator[Problem]:
    """torch.optim.SGD refuses Nesterov momentum without momentum or with dampening."""
    optimizer = spec.optimizer
    if not isinstance(optimizer, Sgd) or not optimizer.nesterov:
        return
    if optimizer.momentum == 0:
        yield Problem("", "optimizer.momentum", "0", "nesterov needs momentum", "a number > 0, or nesterov: false")
    if optimizer.dampening != 0:
        message = "nesterov allows no dampening"
        yield Problem("", "optimizer.dampening", shown(optimizer.dampening), message, "0, or nesterov: false")


def preset_problems(spec: JobSpec, folder: Path) -> Iterator[Problem]:
    """NVIDIA's variants of LAMB are defined on gradients that were clipped to a global norm."""
    optimizer = spec.optimizer
    if not isinstance(optimizer, Lamb) or optimizer.preset not in ("apex", "nvlamb"):
        return
    if spec.train.clip_grad_norm is None and spec.train.auto_clip is None:
        message = "this variant clips gradients to a global norm, and the spec does not"
        legal = "train.clip_grad_norm: 1.0 beside it (NVIDIA's bound), or preset: paper"
        if optimizer.preset == "nvlamb":
            legal += " with adapt: all"
        yield Problem("", "optimizer.preset", shown(optimizer.preset), message, legal)


def adaptation_problems(spec: JobSpec, folder: Path) -> Iterator[Problem]:
    """An optimizer whose point is its adaptation to layers has layers to adapt to."""
    optimizer = spec.optimizer
    if not isinstance(optimizer, Lamb | Lars | Lans):
        return
    adapt = optimizer.adapt
    if adapt is None:
        adapt = "decayed" if isinstance(optimizer, Lamb) and optimizer.preset in ("paper", "apex") else "all"
    anyone = any(group.adapt or group.weight_decay for group in optimizer.param_groups)
    if adapt == "decayed" and optimizer.weight_decay == 0 and not anyone:
        message = "only parameters with weight decay are adapted to their layer, so that none is"
        yield Problem("", "optimizer.weight_decay", "0", message, "a number > 0, or adapt: all")


def free_steps_problems(spec: JobSpec, folder: Path) -> Iterator[Problem]:
    """LAWN begins before the training ends."""
    optimizer, steps = spec.optimizer, spec.train.steps
    if isinstance(optimizer, Lawn) and steps is not None and optimizer.free_steps >= steps and not spec.then:
        message = f"the training of {steps} steps ends before norms are held"
        yield Problem("", "optimizer.free_steps", str(optimizer.free_steps), message, f"less than {steps}")


def layer_log_problems(spec: JobSpec, folder: Path) -> Iterator[Problem]:
    """What is recorded of layers goes into a line of metrics, which not every step has."""
    optimizer, every = spec.optimizer, spec.train.log_every
    if not isinstance(optimizer, LayerwiseBase) or optimizer.log_layers_every is None:
        return
    if optimizer.log_layers_every % every:
        message = f"a line of metrics is written every {every} steps (train.log_every)"
        legal = f"a multiple of {every}"
        yield Problem("", "optimizer.log_layers_every", str(optimizer.log_layers_every), message, legal)


def second_derivative_problems(spec: JobSpec, folder: Path) -> Iterator[Problem]:
    """What cannot be differentiated twice: a compiled model, and a loss that is scaled to the range of fp16."""
    if HESSIAN_PRODUCTS not in spec.optimizer.requires:
        return
    name = shown(spec.optimizer.name)
    if spec.train.compile in ("inductor", "aot_eager"):
        message = "takes second derivatives of the loss, which a compiled model has not"
        yield Problem("", "optimizer.name", name, message, "train.compile: null or eager, or another optimizer")
    if spec.train.precision == "fp16":
        message = "takes second derivatives of the loss, which are beyond the range of fp16"
        yield Problem("", "optimizer.name", name, message, "train.precision: bf16 or fp32, or another optimizer")
