"""A prepared job's model and data without the product's loop: the gradients of all micro-batches, one by one."""

from __future__ import annotations

import torch
from torch import Tensor

from orchestrator.core.run_directory import RunDirectory
from orchestrator.core.values import BatchPlan, DataPosition
from orchestrator.data.loader import MapStyleData
from orchestrator.spec.load import load_recipe_job
from orchestrator.train.sources import build_model, read_source


class SideBySide:
    """One process that computes micro-batches of 4 out of 16 samples."""

    def __init__(self, directory: RunDirectory) -> None:
        spec = load_recipe_job(directory.resolved_spec)
        source = read_source(spec, directory.code)
        self._loss = source.recipe.loss
        self._model = build_model(spec, source.recipe, directory.code)
        self.named = {name: p for name, p in self._model.named_parameters() if p.requires_grad}
        self._data = MapStyleData(
            source.train_set,
            collate=None,
            seed=0,
            rank=0,
            world_size=1,
            total_samples=10_000,
            position=DataPosition(),
            device=torch.device("cpu"),
        )

    def next_gradients(self) -> dict[str, Tensor]:
        """The next step's, by parameter: [micro-batches, ...]."""
        parts = []
        for micro in self._data.step(BatchPlan(global_batch_size=16, micro_batch_size=4))[1]:
            loss, _ = self._loss(self._model, micro.batch)
            parts.append(torch.autograd.grad(loss, list(self.named.values())))
        return {name: torch.stack(pieces) for name, pieces in zip(self.named, zip(*parts, strict=True), strict=True)}


class ClippedMomentum:
    """SGD with momentum and weight decay of matrices, after clipping, with a rate for each parameter."""

    def __init__(self, named: dict[str, Tensor], *, lr: float, momentum: float, decay: float, bound: float) -> None:
        self._named = named
        self._lr, self._momentum, self._decay, self._bound = lr, momentum, decay, bound
        self._velocities = {name: torch.zeros_like(p) for name, p in named.items()}

    @torch.no_grad()
    def step(self, gradients: dict[str, Tensor], multipliers: dict[str, float] | None = None) -> None:
        """One step on mean gradients that were clipped before."""
        for name, p in self._named.items():
            decayed = gradients[name] + (self._decay * p if p.dim() > 1 else 0)
            self._velocities[name].mul_(self._momentum).add_(decayed)
            p.sub_(self._lr * (multipliers or {}).get(name, 1.0) * self._velocities[name])

    def clipped(self, gradients: dict[str, Tensor]) -> dict[str, Tensor]:
        """As torch clips the global norm."""
        norm = float(torch.stack([g.norm() for g in gradients.values()]).norm())
        return {name: g * min(1.0, self._bound / (norm + 1e-6)) for name, g in gradients.items()}
