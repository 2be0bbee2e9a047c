"""What types cannot see of an optimizer's arguments."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from orchestrator.spec.job import JobSpec
from orchestrator.spec.methods.optimizers import Lamb, Sgd
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
