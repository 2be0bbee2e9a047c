"""Evaluation: every sample once over all ranks; means weighted by samples, or what a recipe makes of it all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from orchestrator.core.collectives import Collectives
from orchestrator.core.coupling import Coupling, coupled
from orchestrator.core.errors import RecipeError
from orchestrator.core.protocols import Engine
from orchestrator.core.user_code import user_code
from orchestrator.data.loader import evaluation_micro_batches
from orchestrator.data.micro_batch import to_device
from orchestrator.spec.job import JobSpec
from orchestrator.train.context import RankContext

EvaluateFunction = Callable[[nn.Module, Any], Mapping[str, Tensor]]
PredictFunction = Callable[[nn.Module, Any], Any]
EvaluateAllFunction = Callable[[Sequence[Any]], Mapping[str, Any]]
_EMPTY = "The evaluation data set is empty; return None from build_datasets to train without one."
_ALONE = Coupling(spans_ranks=False)
"""Ranks may differ in their number of batches: a loss over all samples is one over those of a batch here."""


def evaluate(
    model: nn.Module,
    micro_batches: Iterable[tuple[Any, int]],
    metrics_of: EvaluateFunction,
    collectives: Collectives,
) -> dict[str, float]:
    """Mean of each metric over all samples of all ranks, under ``eval/<name>``.

    Args:
        model: in evaluation mode.
        micro_batches: this rank's (batch, number of samples that count).
        metrics_of: means of one batch.
        collectives: the job's collectives.

    Raises:
        RecipeError: where no rank has a sample.
    """
    sums: dict[str, float] = {}
    num_samples = 0
    for batch, num_in_batch in micro_batches:
        metrics = metrics_of(model, batch)
        if num_in_batch:  # padding has been computed for the sake of the other ranks
            for name, value in metrics.items():
                sums[name] = sums.get(name, 0.0) + float(value) * num_in_batch
        num_samples += num_in_batch
    # Objects, not one tensor: a rank without samples does not know the names of the metrics.
    parts = collectives.all_gather_object((num_samples, sums))
    total = sum(part[0] for part in parts)
    if total == 0:
        raise RecipeError(_EMPTY)
    names = dict.fromkeys(name for part in parts for name in part[1])
    return {f"eval/{name}": sum(part[1].get(name, 0.0) for part in parts) / total for name in names}


def evaluate_predictions(
    model: nn.Module,
    micro_batches: Iterable[tuple[Any, int]],
    predict: PredictFunction,
    evaluate_all: EvaluateAllFunction,
    collectives: Collectives,
) -> dict[str, float]:
    """Metrics that are no means over batches, under ``eval/<name>``, equal on all ranks.

    Every rank predicts its slice of the data, rank 0 is sent all predictions and evaluates them; they must fit into
    its host memory.

    Args:
        model: in evaluation mode.
        micro_batches: this rank's (batch, number of samples that count).
        predict: what is kept of one batch; tensors in it go to host memory, and it is pickled.
        evaluate_all: makes numbers of the predictions for all batches, in the order of the data.
        collectives: the job's collectives.

    Raises:
        RecipeError: where no rank has a sample.
    """
    own = []
    for batch, num_in_batch in micro_batches:
        prediction = predict(model, batch)
        if num_in_batch:  # padding has been computed for the sake of the other ranks
            own.append(to_device(prediction, torch.device("cpu")))
    parts = collectives.gather_object(own)
    metrics = None
    if parts is not None:
        predictions = [prediction for part in parts for prediction in part]
        if not predictions:
            raise RecipeError(_EMPTY)
        metrics = {f"eval/{name}": float(value) for name, value in evaluate_all(predictions).items()}
    shared: dict[str, float] = collectives.all_gather_object(metrics)[0]
    return shared


class Evaluator:
    """``evaluate`` over the job's evaluation data, or ``evaluate_predictions`` of a recipe that has ``evaluate_all``.

    Called by all ranks together; gives nothing where there is no evaluation data.

    Raises:
        RecipeError: where a recipe has ``evaluate_all`` and no ``predict``.
    """

    def __init__(self, spec: JobSpec, recipe: Any, eval_set: Any, engine: Engine, context: RankContext) -> None:
        self._recipe = recipe
        self._takes_all = hasattr(recipe, "evaluate_all")
        if self._takes_all and not hasattr(recipe, "predict"):
            raise RecipeError(
                f"{type(recipe).__name__} has evaluate_all and no predict. Legal: predict(model, batch) together with "
                "evaluate_all(predictions), or evaluate(model, batch) alone."
            )
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
        with self._engine.evaluating() as model, coupled(_ALONE):
            if self._takes_all:
                return evaluate_predictions(model, batches, self._predict, self._evaluate_all, collectives)
            return evaluate(model, batches, self._metrics_of, collectives)

    def _users(self) -> AbstractContextManager[None]:
        return user_code(f"Evaluating {type(self._recipe).__name__}", self._context.run_directory.code)

    def _predict(self, model: nn.Module, batch: Any) -> Any:
        with self._users():
            return self._recipe.predict(model, batch)

    def _evaluate_all(self, predictions: Sequence[Any]) -> Mapping[str, Any]:
        with self._users():
            metrics: Mapping[str, Any] = self._recipe.evaluate_all(predictions)
            return metrics

    def _metrics_of(self, model: nn.Module, batch: Any) -> Mapping[str, Tensor]:
        with self._users():
            if hasattr(self._recipe, "evaluate"):
                metrics: Mapping[str, Tensor] = self._recipe.evaluate(model, batch)
                return metrics
            loss, more = self._recipe.loss(model, batch)
            return {"loss": loss, **more}
