"""From a spec to the objects of one rank: the only place that turns names into implementations."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from orchestrator.checkpoint.listing import latest_checkpoint
from orchestrator.core import tables
from orchestrator.core.parts import EngineParts
from orchestrator.core.protocols import Engine, Tracker, TrainData
from orchestrator.core.seeding import seed_everything
from orchestrator.core.user_code import user_code
from orchestrator.core.values import DataPosition
from orchestrator.data.loader import MapStyleData
from orchestrator.data.stream import StreamData, is_stream, stream_length_error
from orchestrator.engines.modules import checkpoint_activations, compile_model
from orchestrator.optim.schedules import SampleSchedule, scaling_factor, warmup_samples
from orchestrator.spec.job import JobSpec
from orchestrator.train.context import RankContext
from orchestrator.train.evaluation import Evaluator
from orchestrator.train.loop import Job
from orchestrator.train.recipe import CheckedLoss, load_recipe
from orchestrator.train.recorder import Recorder
from orchestrator.train.snapshots import Snapshots, restore


def assemble(spec: JobSpec, context: RankContext, tracker: Tracker) -> Job:
    """Build one rank's job and restore the latest checkpoint where there is one.

    Raises:
        RecipeError: where user code fails.
        DataError: where the data cannot be served as asked for.
        CheckpointError: where the latest checkpoint is damaged or of another training.
    """
    folder = context.run_directory.code
    seed_everything(spec.train.seed)
    recipe = load_recipe(spec.recipe, folder)
    train_set, eval_set = tables.load(tables.SOURCES, spec.data.source.name)(spec.data.source, recipe, folder)
    engine = _build_engine(spec, recipe, context)
    controller = tables.load(tables.CONTROLLERS, spec.batch.controller.name)(spec.batch)
    checkpoint = latest_checkpoint(context.run_directory.checkpoints)
    manifest = None if checkpoint is None else restore(spec, checkpoint, engine, controller)
    position = DataPosition() if manifest is None else manifest.data
    total_samples = count_samples(spec, train_set)
    data = _build_data(spec, recipe, train_set, context, position=position, total_samples=total_samples)
    return Job(
        engine=engine,
        loss=CheckedLoss(recipe, folder),
        data=data,
        controller=controller,
        schedule=_build_schedule(spec, train_set, total_samples),
        recorder=Recorder(
            tracker,
            context.collectives,
            log_every=spec.train.log_every,
            stop_requested=context.run_directory.stop_file.exists,
            tolerate_overflow=spec.train.precision == "fp16",
        ),
        evaluate=Evaluator(spec, recipe, eval_set, engine, context),
        saver=Snapshots(spec, context, tracker, engine=engine, controller=controller, data=data),
        seed=spec.train.seed,
        rank=context.collectives.rank,
        total_steps=spec.train.steps,
        total_samples=total_samples,
        eval_every=spec.train.eval_every,
        save_every=spec.checkpoint.every,
        step=0 if manifest is None else manifest.step,
        samples=position.samples,
    )


def count_samples(spec: JobSpec, train_set: Any) -> int:
    """Length of the training in samples.

    Raises:
        DataError: where the length is given in epochs and the data is a stream, which has none.
    """
    if spec.train.samples is not None:
        return spec.train.samples
    if spec.train.steps is not None:
        return spec.train.steps * spec.batch.global_size
    if is_stream(train_set):
        raise stream_length_error("train.epochs")
    return (spec.train.epochs or 0) * len(train_set)


def _build_engine(spec: JobSpec, recipe: Any, context: RankContext) -> Engine:
    seed_everything(spec.train.seed)
    with user_code(f"{type(recipe).__name__}.build_model", context.run_directory.code):
        model: nn.Module = recipe.build_model()
    if spec.train.activation_checkpointing is not None:
        checkpoint_activations(model, spec.train.activation_checkpointing)
    if spec.train.compile is not None:
        compile_model(model, spec.train.compile)
    parts = EngineParts(
        spec=spec,
        model=model,
        build_optimizer=partial(
            tables.load(tables.OPTIMIZERS, spec.optimizer.name), spec.optimizer, collectives=context.collectives
        ),
        build_exchange=partial(tables.load(tables.EXCHANGES, spec.exchange.name), spec.exchange, context.collectives),
        collectives=context.collectives,
        device=context.device,
        code_folder=context.run_directory.code,
        run_folder=context.run_directory.root,
    )
    engine: Engine = tables.load(tables.ENGINES, spec.engine.name)(parts)
    return engine


def _build_data(
    spec: JobSpec, recipe: Any, train_set: Any, context: RankContext, *, position: DataPosition, total_samples: int
) -> TrainData:
    common: dict[str, Any] = {
        "collate": getattr(recipe, "collate", None),
        "seed": spec.train.seed,
        "total_samples": total_samples,
        "position": position,
        "device": context.device,
        "code_folder": context.run_directory.code,
    }
    if is_stream(train_set):
        return StreamData(train_set, collectives=context.collectives, **common)
    return MapStyleData(
        train_set,
        rank=context.collectives.rank,
        world_size=context.collectives.world_size,
        loader_workers=spec.data.loader_workers,
        prefetch=spec.data.prefetch,
        **common,
    )


def _build_schedule(spec: JobSpec, train_set: Any, total_samples: int) -> SampleSchedule:
    warmup = spec.schedule.warmup
    if warmup is not None and warmup.epochs is not None and is_stream(train_set):
        raise stream_length_error("schedule.warmup.epochs")
    length = warmup_samples(
        warmup,
        global_batch_size=spec.batch.global_size,
        epoch_samples=0 if is_stream(train_set) else len(train_set),
        total_samples=total_samples,
    )
    peak_lr = spec.optimizer.lr * scaling_factor(spec.scaling, spec.batch.global_size)
    return SampleSchedule(spec.schedule, peak_lr=peak_lr, warmup_samples=length, total_samples=total_samples)
