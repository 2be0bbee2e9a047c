"""Branches inside a training: steps that are taken from its weights with its coming samples, and then forgotten."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

import torch
from torch import Tensor

from orchestrator.core.collectives import Collectives
from orchestrator.core.protocols import Engine, LossFunction, RewindingEngine, TrainData
from orchestrator.core.seeding import seed_everything
from orchestrator.core.values import BatchPlan, Branches, DataPosition


class Branching:
    """Trains branches on one rank; all ranks do so together.

    Modulators that measure are shown nothing of a branch, and all others keep their state in the optimizer's.

    Args:
        engine: of the training.
        loss: of the recipe.
        data_at: reads the phase's samples from a position on, apart from what the training itself reads.
        collectives: the job's collectives.
        seed: of the job.
    """

    def __init__(
        self,
        engine: Engine,
        loss: LossFunction,
        *,
        data_at: Callable[[DataPosition], TrainData],
        collectives: Collectives,
        seed: int,
    ) -> None:
        self._engine = engine
        self._loss = loss
        self._data_at = data_at
        self._collectives = collectives
        self._seed = seed

    def losses(
        self, branches: Branches, *, position: DataPosition, step: int, lr: float, micro_batch_size: int | None
    ) -> tuple[tuple[float, ...], ...]:
        """Mean loss of each step of each branch, equal on all ranks.

        Args:
            branches: to train.
            position: of the samples that come next.
            step: steps that the training has taken.
            lr: scheduled rate of the moment.
            micro_batch_size: most samples per rank per backward; None takes a rank's whole share at once.

        Raises:
            RecipeError: where user code fails.
        """
        assert isinstance(self._engine, RewindingEngine)  # else `check` has refused the controller
        put_back = self._engine.remember()
        found = []
        for batch, factor in zip(branches.batches, branches.lr_factors, strict=True):
            plan = BatchPlan(global_batch_size=batch, micro_batch_size=micro_batch_size)
            with closing(self._data_at(position)) as data:
                found.append(self._train(data, plan, branches.num_samples // batch, step=step, lr=lr * factor))
            put_back()
        return tuple(found)

    def _train(self, data: TrainData, plan: BatchPlan, num_steps: int, *, step: int, lr: float) -> tuple[float, ...]:
        losses: list[Tensor] = []
        for taken in range(num_steps):
            seed_everything(self._seed, step + taken, self._collectives.rank)
            _, micro_batches = data.step(plan)
            self._engine.begin_step()
            parts = [self._engine.forward_backward(micro, self._loss)["loss"] for micro in micro_batches]
            losses.append(torch.stack(parts).sum(dtype=torch.float64))
            self._engine.step(lr)
        message = torch.stack(losses)
        self._collectives.sum_(message)
        return tuple(message.tolist())
