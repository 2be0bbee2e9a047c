"""Evaluation: every sample once over all ranks, means weighted by samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from orchestrator.core.collectives import Collectives
from orchestrator.core.errors import RecipeError
from orchestrator.core.protocols import Engine
from orchestrator.core.user_code import user_code
from orchestrator.data.loader import evaluation_micro_batches
from orchestrator.spec.job import JobSpec
from orchestrator.train.context import RankContext

EvaluateFunction = Callable[[nn.Module, Any], Mapping[str, Tensor]]


def evaluate(
    model: nn.Module,
    micro_batches: Iterable[tuple[Any, int]],
    metrics_of: EvaluateFunction,
    collectives: Collectives,
) -> dict[str, float]:
    """Mean of each metric over all samples of all ranks, under ``eval/<name>``.

    Args:
        model: in evaluation mode.
        micro_batches: this rank's (batch, number of samples).
        metrics_of: means of one batch.
        collectives: the job's collectives.

    Raises:
        RecipeError: where no rank has a sample.
    """
    sums: dict[str, float] = {}
    num_samples = 0
    for batch, num_in_batch in micro_batches:
        for name, value in metrics_of(model, batch).items():
            sums[name] = sums.get(name, 0.0) + float(value) * num_in_batch
        num_samples += num_in_batch
    # Objects, not one tensor: a rank without samples does not know the names of the metrics.
    parts = collectives.all_gather_object((num_samples, sums))
    total = sum(part[0] for part in parts)
    if total == 0:
        raise RecipeError("The evaluation data set is empty; return None from build_datasets to train without one.")
    names = dict.fromkeys(name for part in parts for name in part[1])
    return {f"eval/{name}": sum(part[1].get(name, 0.0) for part in parts) / total for name in names}


class Evaluator:
    """``evaluate`` over the job's evaluation data; called by all ranks together, gives nothing where there is none."""

    def __init__(self, spec: JobSpec, recipe: Any, eval_set: Any, engine: Engine, context: RankContext) -> None:
        self._recipe = recipe
        self._eval_set = eval_set
        self._engine = engine
        self._context = context
        self._seed = spec.train.seed
        self._micro_batch_size = spec.batch.planned_micro_size or spec.batch.global_size

    def __call__(self) -> dict[str, float]:
        """Metrics by name; empty without evaluation data."""
        if self._eval_set is None:
            return {}
        collectives = self._context.collectives
        batches = evaluation_micro_batches(
            self._eval_set,
            getattr(self._recipe, "collate", None),
            rank=collectives.rank,
            world_size=collectives.world_size,
            micro_batch_size=self._micro_batch_size,
            device=self._context.device,
            seed=self._seed,
            code_folder=self._context.run_directory.code,
        )
        with self._engine.evaluating() as model:
            return evaluate(model, batches, self._metrics_of, collectives)

    def _metrics_of(self, model: nn.Module, batch: Any) -> Mapping[str, Tensor]:
        with user_code(f"Evaluating {type(self._recipe).__name__}", self._context.run_directory.code):
            if hasattr(self._recipe, "evaluate"):
                metrics: Mapping[str, Tensor] = self._recipe.evaluate(model, batch)
                return metrics
            loss, more = self._recipe.loss(model, batch)
            return {"loss": loss, **more}
