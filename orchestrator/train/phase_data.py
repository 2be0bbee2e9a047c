"""Which samples the ranks of a phase are given, and in what order."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from orchestrator.core.errors import DataError
from orchestrator.core.protocols import TrainData
from orchestrator.core.served import RoundRequest
from orchestrator.core.values import DataPosition, PhaseStart
from orchestrator.data.chunks import RoundData
from orchestrator.data.loader import MapStyleData
from orchestrator.data.ordered import OrderedData
from orchestrator.data.randomness import phase_seed
from orchestrator.data.stream import StreamData, is_stream
from orchestrator.data.updates import UpdateData
from orchestrator.exchange.read_plan import Listed, ReadPlan
from orchestrator.spec.job import JobSpec
from orchestrator.spec.methods.asynchronous import Asynchronous
from orchestrator.spec.methods.served import Served
from orchestrator.train.context import RankContext
from orchestrator.train.sources import Source


def build_data(
    spec: JobSpec,
    source: Source,
    context: RankContext,
    *,
    start: PhaseStart,
    position: DataPosition,
    step: int,
    total_samples: int,
    exchange: Any,
    plan: ReadPlan | None,
) -> TrainData:
    """The samples of one phase from where it or a checkpoint begins.

    Args:
        spec: of the phase.
        source: its recipe and data.
        context: of the rank.
        start: where the phase began.
        position: in it.
        step: steps taken so far.
        total_samples: length of the phase.
        exchange: of the job; those that choose samples themselves are asked.
        plan: at which weights gradients are computed, where that is known in advance.

    Raises:
        DataError: where the data cannot be served as asked for.
    """
    if context.served is not None:
        return _served_data(
            spec, context, start=start, position=position, step=step, total_samples=total_samples, exchange=exchange
        )
    common: dict[str, Any] = {
        "collate": getattr(source.recipe, "collate", None),
        "seed": phase_seed(spec.train.seed, start.index),
        "total_samples": total_samples,
        "position": position,
        "device": context.device,
        "code_folder": context.run_directory.code,
    }
    if isinstance(plan, Listed):
        if is_stream(source.train_set):
            raise DataError(
                "exchange.order asks for samples in any order, which a stream cannot give. Legal: exchange.steps."
            )
        return OrderedData(
            source.train_set,
            pushes=plan.pushes,
            pushes_per_update=plan.pushes_per_update,
            begin_push=exchange.begin_push,
            step=step,
            train_seed=spec.train.seed,
            rank=context.collectives.rank,
            world_size=context.collectives.world_size,
            **common,
        )
    if is_stream(source.train_set):
        return StreamData(source.train_set, collectives=context.collectives, **common)
    return MapStyleData(
        source.train_set,
        rank=context.collectives.rank,
        world_size=context.collectives.world_size,
        loader_workers=spec.data.loader_workers,
        prefetch=spec.data.prefetch,
        **common,
    )


def _served_data(
    spec: JobSpec,
    context: RankContext,
    *,
    start: PhaseStart,
    position: DataPosition,
    step: int,
    total_samples: int,
    exchange: Any,
) -> TrainData:
    """What shards ask their workers for."""
    assert context.served is not None
    if isinstance(spec.exchange, Asynchronous):
        request = RoundRequest(
            model=0,
            phase=start.index,
            step=step,
            position=0,
            num_samples=total_samples,
            num_counted=spec.batch.global_size,
            micro_batch_size=spec.batch.planned_micro_size,
        )
        return UpdateData(exchange, request, position)
    return RoundData(
        model=context.served.model,
        phase=start.index,
        step=step,
        total_samples=total_samples,
        position=position,
        draw_factor=_draw_factor(spec, context.served.links.num_workers),
    )


def _draw_factor(spec: JobSpec, num_workers: int) -> Fraction:
    assert isinstance(spec.exchange, Served)  # only served exchanges have links
    return spec.exchange.draw_factor(num_workers)
