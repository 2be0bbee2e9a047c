"""From a spec to the objects of one rank: the only place that turns names into implementations."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from orchestrator.batching.asking import AskingController
from orchestrator.checkpoint.listing import latest_checkpoint, step_of
from orchestrator.checkpoint.manifest import Manifest
from orchestrator.core import tables
from orchestrator.core.collectives import Collectives
from orchestrator.core.errors import RecipeError
from orchestrator.core.parts import DataParts, EngineParts
from orchestrator.core.protocols import (
    BatchController,
    Compensation,
    DataModulator,
    Engine,
    Exchange,
    MeasuringModulator,
    Modulator,
    RoundExchange,
    Tracker,
    TrainData,
)
from orchestrator.core.run_directory import RunDirectory
from orchestrator.core.signal_to_noise import SignalToNoise
from orchestrator.core.staleness import Staleness
from orchestrator.core.values import ControllerParts, DataPosition, PhaseStart
from orchestrator.core.worker_watch import WorkerWatch
from orchestrator.data.stream import is_stream, stream_length_error
from orchestrator.engines.precision import Precision
from orchestrator.exchange.asynchronous.rate_watch import RateWatch
from orchestrator.exchange.read_plan import FixedDelay, Listed, read_plan
from orchestrator.optim.schedules import SampleSchedule
from orchestrator.spec.job import JobSpec
from orchestrator.spec.methods.asynchronous import Asynchronous, Delayed
from orchestrator.spec.methods.engines import LOCAL_GRADIENTS
from orchestrator.spec.methods.gradient_modulators import MeasuresModules, Vrgd
from orchestrator.spec.methods.modulators import ModulatorConfig
from orchestrator.spec.phases import phases_of, samples_per_step
from orchestrator.spec.push_order import read_order
from orchestrator.spec.scaling import scaled_optimizer, warmup_samples
from orchestrator.train.averages import Averages
from orchestrator.train.branching import Branching
from orchestrator.train.context import RankContext
from orchestrator.train.evaluation import Evaluator
from orchestrator.train.job import Job
from orchestrator.train.micro_size import MicroSizeSearch
from orchestrator.train.parameter_modules import ParameterModules, parameter_modules
from orchestrator.train.phase_data import build_data
from orchestrator.train.phases import Phase
from orchestrator.train.rank_times import RankTimes
from orchestrator.train.recipe import CheckedLoss, training_loss
from orchestrator.train.recorder import Recorder
from orchestrator.train.snapshots import Snapshots, open_writer, restore
from orchestrator.train.sources import build_model, count_ahead, count_samples, read_source

NO_END = sys.maxsize
"""Length in samples of data that steps alone bring to an end."""


def assemble(spec: JobSpec, context: RankContext, tracker: Tracker) -> Generator[Phase, None, None]:
    """Build one rank's training and restore the latest checkpoint where there is one.

    Model, optimizer state and engine are those of the first phase throughout. What belongs to a phase is made when it
    is asked for, after the one before it has been trained; the first is that of the checkpoint.

    Yields:
        The phases that are still to be trained, in their order.

    Raises:
        RecipeError: where user code fails.
        DataError: where the data cannot be served as asked for.
        CheckpointError: where the latest checkpoint is damaged or of another training.
    """
    return _Assembly(spec, context, tracker).phases()


class _Assembly:
    """What all phases of a rank's training share."""

    def __init__(self, spec: JobSpec, context: RankContext, tracker: Tracker) -> None:
        self._spec = spec
        self._phases = phases_of(spec)
        self._context = context
        self._tracker = tracker
        # Also where training goes on in a later phase: a model may depend on the data that it was first made for.
        self._source = read_source(self._phases[0], context.run_directory.code)
        self._optimizers: list[torch.optim.Optimizer] = []
        self._staleness = Staleness(is_asynchronous=isinstance(spec.exchange, Asynchronous | Delayed))
        self._noise = SignalToNoise() if any(isinstance(config, Vrgd) for config in spec.modulators) else None
        # Those of the data watch the optimizer too, whose state is what checkpoints keep.
        self._modulators: dict[str, Modulator] = {
            config.name: self._build_modulator(config)
            for config in spec.modulators
            if config.changes & {"data", "gradient"}
        }
        self._modules = ParameterModules((), {})
        self._exchange: Any = None  # engines with messages of their own build none
        self._plan = _read_plan(spec, self._code)
        self._compensation = _build_compensation(
            spec, num_workers=spec.resources.num_workers if self._plan is None else self._plan.num_workers
        )
        checkpoint = latest_checkpoint(context.run_directory.checkpoints)
        if self._phases[0].batch.micro_size == "auto":
            self._find_micro_size()
        self._times = _rank_times(spec, context, tracker, last_step=0 if checkpoint is None else step_of(checkpoint))
        self._engine = self._build_engine(self._phases[0], self._source.recipe)
        self._manifest = None if checkpoint is None else restore(spec, checkpoint, self._engine)
        if self._manifest is not None:
            self._restore_modulators(self._manifest)
        self._writer = open_writer(spec, context, tracker)

    def _build_modulator(self, config: ModulatorConfig) -> Modulator:
        noise = (self._noise,) if isinstance(config, Vrgd) else ()
        modulator: Modulator = tables.load(tables.MODULATORS, config.name)(config, *noise)
        return modulator

    def _restore_modulators(self, manifest: Manifest) -> None:
        if manifest.staleness:
            self._staleness.load_state_dict(manifest.staleness)
        for name, modulator in self._modulators.items():
            if isinstance(modulator, MeasuringModulator):
                modulator.load_state_dict(manifest.modulators[name])

    def _find_micro_size(self) -> None:
        """Let the first phase's model try, and all phases that name no size of their own take what was found."""
        spec, context = self._phases[0], self._context
        found, is_known = MicroSizeSearch(
            spec,
            context,
            build_engine=lambda: self._build_engine(spec, self._source.recipe),
            build_data=lambda: build_data(
                _reading_itself(spec),
                self._source,
                context,
                start=PhaseStart(),
                position=DataPosition(),
                step=0,
                total_samples=NO_END,
                exchange=self._exchange,
                plan=self._plan,
            ),
            loss=training_loss(spec, self._source.recipe, self._code),
        ).run()
        self._optimizers.clear()
        self._tracker.event("micro_size", {**asdict(found), "found_before": is_known})
        self._phases = tuple(_with_micro_size(phase, found.micro_size) for phase in self._phases)

    def phases(self) -> Generator[Phase, None, None]:
        """See ``assemble``."""
        start = PhaseStart() if self._manifest is None else self._manifest.phase
        later = self._phases[start.index + 1 :]
        # What is wrong with a later phase is an error now, not when the phase begins.
        samples = {index: count_ahead(phase, self._code) for index, phase in enumerate(later, start.index + 1)}
        try:
            yield from self._in_turn(start, samples)
        finally:
            self._engine.close()

    def _in_turn(self, start: PhaseStart, samples: Mapping[int, int | None]) -> Iterator[Phase]:
        """The phases from ``start`` on; ``samples`` are those of the later ones, by index."""
        manifest = self._manifest
        for index in range(start.index, len(self._phases)):
            if index > 0:
                self._source = read_source(self._phases[index], self._code)
            job = self._job(start, manifest)
            to_come_indices = range(index + 1, len(self._phases))
            to_come = self._phases[index + 1 :]
            steps = [job.total_steps, *(phase.train.steps for phase in to_come)]
            yield Phase(
                job=job,
                number=index + 1,
                count=len(self._phases),
                global_batch_size=self._phases[index].batch.global_size,
                total_steps=_sum_if_known(steps),
                total_samples=_sum_if_known([job.total_samples, *(samples[i] for i in to_come_indices)]),
            )
            manifest, start = None, PhaseStart(index=index + 1, step=job.step, samples=job.samples)

    @property
    def _code(self) -> Path:
        return self._context.run_directory.code

    def _job(self, start: PhaseStart, manifest: Manifest | None) -> Job:
        """The job of one phase, from its start or from a checkpoint in it."""
        spec, source, context = self._phases[start.index], self._source, self._context
        position = DataPosition() if manifest is None else manifest.data
        num_samples = count_samples(spec, source.train_set)
        controller = _build_controller(spec, context, start, num_samples)
        if manifest is not None:
            controller.load_state_dict(manifest.controller)
        step = start.step if manifest is None else manifest.step
        in_all = NO_END if num_samples is None else num_samples
        data = self._data(spec, start, position, step=step, total_samples=in_all)
        if isinstance(spec.exchange, Delayed):
            self._exchange.open(step)
        return Job(
            engine=self._engine,
            modulators=list(self._modulators.values()),
            loss=training_loss(spec, source.recipe, self._code),
            data=data,
            controller=controller,
            averages=Averages(spec, self._optimizers),
            schedule=_build_schedule(
                spec,
                source.train_set,
                num_samples,
                start,
                rollback_factor=_rollback_factor(spec, context.run_directory),
            ),
            recorder=Recorder(
                self._tracker,
                context.collectives,
                log_every=spec.train.log_every,
                stop_requested=context.run_directory.should_stop,
                tolerate_overflow=spec.train.precision == "fp16",
                times=self._times if context.served is None else None,
            ),
            times=self._times,
            branching=self._branching(spec, start, total_samples=in_all),
            evaluate=Evaluator(spec, source.recipe, source.eval_set, self._engine, context),
            saver=Snapshots(
                self._spec,
                context,
                self._writer,
                engine=self._engine,
                controller=controller,
                data=data,
                phase=start,
                staleness=self._staleness,
                modulators=self._modulators,
            ),
            seed=spec.train.seed,
            rank=context.collectives.rank,
            total_steps=None if spec.train.steps is None else start.step + spec.train.steps,
            total_samples=None if num_samples is None else start.samples + num_samples,
            start=start,
            step_samples=samples_per_step(spec),
            num_workers=None if context.worker_range is None else len(context.worker_nodes),
            eval_every=spec.train.eval_every,
            save_every=spec.checkpoint.every,
            step=step,
            samples=start.samples + position.samples,
        )

    def _branching(self, spec: JobSpec, start: PhaseStart, *, total_samples: int) -> Branching:
        source = self._source
        return Branching(
            self._engine,
            training_loss(spec, source.recipe, self._code),
            data_at=lambda position: build_data(
                _reading_itself(spec),
                source,
                self._context,
                start=start,
                position=position,
                step=start.step,
                total_samples=total_samples,
                exchange=self._exchange,
                plan=self._plan,
            ),
            collectives=self._context.collectives,
            seed=spec.train.seed,
        )

    def _data(
        self, spec: JobSpec, start: PhaseStart, position: DataPosition, *, step: int, total_samples: int
    ) -> TrainData:
        """The samples of a phase, with what is made of them ahead of their step."""
        data = build_data(
            spec,
            self._source,
            self._context,
            start=start,
            position=position,
            step=step,
            total_samples=total_samples,
            exchange=self._exchange,
            plan=self._plan,
        )
        for modulator in self._modulators.values():
            if isinstance(modulator, DataModulator):
                parts = DataParts(
                    model=self._engine.model,
                    loss=CheckedLoss(self._source.recipe, self._code),
                    forward=Precision(spec.train.precision, self._context.device).forward,
                    device=self._context.device,
                    first_step=start.step,
                    step=step,
                    total_samples=total_samples,
                )
                data = modulator.over(data, parts)
        return data

    @property
    def _shards(self) -> Collectives | None:
        """Over the ranks, where each steps on tensors of its own."""
        return None if self._context.served is None else self._context.collectives

    def _build_engine(self, spec: JobSpec, recipe: Any) -> Engine:
        context = self._context
        model = build_model(spec, recipe, self._code)
        for config in spec.modulators:
            if isinstance(config, MeasuresModules):
                self._modules = parameter_modules(config, recipe, model, self._code)
        parts = EngineParts(
            spec=spec,
            model=model,
            build_optimizer=self._build_optimizer,
            build_exchange=self._build_exchange,
            collectives=context.collectives,
            device=context.device,
            code_folder=self._code,
            run_folder=context.run_directory.root,
            noise=self._noise,
            module_of=self._modules.module_of,
        )
        engine: Engine = tables.load(tables.ENGINES, spec.engine.name)(parts)
        return engine

    def _build_exchange(self) -> Exchange | RoundExchange:
        config, context = self._phases[0].exchange, self._context
        arguments: dict[str, Any] = {} if context.served is None else {"place": context.served}
        if isinstance(config, Asynchronous | Delayed):
            arguments |= {"staleness": self._staleness, "compensation": self._compensation}
        if isinstance(config, Delayed):
            arguments["plan"] = self._plan
        self._exchange = tables.load(tables.EXCHANGES, config.name)(config, context.collectives, **arguments)
        exchange: Exchange | RoundExchange = self._exchange
        return exchange

    def _build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        first = self._phases[0]
        config = scaled_optimizer(first.optimizer, first.scaling, first.batch.global_size)
        build = tables.load(tables.OPTIMIZERS, config.name)
        optimizer: torch.optim.Optimizer = build(config, model, collectives=self._context.collectives)
        self._optimizers.append(optimizer)
        # The compensation is nearer to the exchange: it sees the gradient first.
        if self._compensation is not None:
            self._compensation.attach(optimizer, self._staleness)
        for modulator in self._modulators.values():
            modulator.attach(optimizer, self._staleness, self._shards)
            if isinstance(modulator, MeasuringModulator):
                named = ((name, p) for name, p in model.named_parameters() if p.requires_grad)
                modulator.divide(
                    optimizer, self._modules.names, {p: self._modules.module_of[name] for name, p in named}
                )
        if isinstance(first.exchange, Delayed):
            self._exchange.keep_in(optimizer)
        if isinstance(first.exchange, Asynchronous):
            RateWatch(self._context.collectives, self._tracker).attach(optimizer, self._staleness)
        return optimizer


def _read_plan(spec: JobSpec, code: Path) -> FixedDelay | Listed | None:
    """Which versions of the weights gradients are computed at, where that is known in advance."""
    config = spec.exchange
    if not isinstance(config, Delayed):
        return None
    return read_plan(config, None if config.order is None else read_order(code / config.order))


def _build_compensation(spec: JobSpec, *, num_workers: int) -> Compensation | None:
    config = spec.exchange.compensation if isinstance(spec.exchange, Asynchronous | Delayed) else None
    if config is None:
        return None
    compensation: Compensation = tables.load(tables.COMPENSATIONS, config.name)(config, num_workers)
    return compensation


def _rank_times(spec: JobSpec, context: RankContext, tracker: Tracker, *, last_step: int) -> RankTimes:
    """The clock of this rank; where others compute for the ranks it is theirs that counts, and the rounds have it."""
    watch = None
    if context.collectives.rank == 0 and context.served is None:
        watch = WorkerWatch(context.run_directory, tracker, context.nodes, last_step=last_step)
    works_alone = LOCAL_GRADIENTS in spec.engine.provides
    return RankTimes(context.collectives, context.device, watch, works_alone=works_alone)


def _reading_itself(spec: JobSpec) -> JobSpec:
    """The job without loader processes, for a few steps."""
    return spec.model_copy(update={"data": spec.data.model_copy(update={"loader_workers": 0})})


def _with_micro_size(phase: JobSpec, micro_size: int) -> JobSpec:
    if phase.batch.micro_size != "auto":
        return phase
    return phase.model_copy(update={"batch": phase.batch.model_copy(update={"micro_size": micro_size})})


def _sum_if_known(numbers: Sequence[int | None]) -> int | None:
    """Their sum; None where one of them is not known."""
    known = [number for number in numbers if number is not None]
    return sum(known) if len(known) == len(numbers) else None


def _build_controller(
    spec: JobSpec, context: RankContext, start: PhaseStart, total_samples: int | None
) -> BatchController:
    parts = ControllerParts(
        spec=spec,
        world_size=context.collectives.world_size,
        start=start,
        total_samples=total_samples,
        peak_lr=scaled_optimizer(spec.optimizer, spec.scaling, spec.batch.global_size).lr,
        worker_range=context.worker_range,
    )
    controller: BatchController = tables.load(tables.CONTROLLERS, spec.batch.controller.name)(parts)
    limits = context.worker_range
    if limits is not None and limits.samples_per_worker is not None:
        return AskingController(controller, limits, limits.samples_per_worker)
    return controller


def _rollback_factor(spec: JobSpec, directory: RunDirectory) -> float:
    """What is left of the learning rate after the job has gone back because its weights had diverged."""
    if not isinstance(spec.exchange, Asynchronous):
        return 1.0
    num_rollbacks: int = directory.read_state().get("retries_used", {}).get("diverged", 0)
    return float(spec.exchange.rollback_lr_factor**num_rollbacks)


def _build_schedule(
    spec: JobSpec, train_set: Any, num_samples: int | None, start: PhaseStart, *, rollback_factor: float
) -> SampleSchedule:
    # Where only steps count the schedule takes each for one of the spec's batch.
    total_samples = (spec.train.steps or 0) * samples_per_step(spec) if num_samples is None else num_samples
    warmup = spec.schedule.warmup
    if warmup is not None and warmup.epochs is not None and is_stream(train_set):
        raise stream_length_error("schedule.warmup.epochs")
    length = warmup_samples(
        warmup,
        spec.scaling,
        global_batch_size=spec.batch.global_size,
        step_samples=samples_per_step(spec),
        epoch_samples=0 if is_stream(train_set) else len(train_set),
        total_samples=total_samples,
    )
    if length > total_samples:
        # What `check` can compare it has compared; this one is in another unit than the training's length.
        raise RecipeError(
            f"schedule.warmup is {length:.0f} samples long and the training {total_samples}: it would never reach its "
            "learning rate. Legal: a warmup of at most the training."
        )
    return SampleSchedule(
        spec.schedule,
        peak_lr=scaled_optimizer(spec.optimizer, spec.scaling, spec.batch.global_size).lr * rollback_factor,
        warmup_samples=length,
        total_samples=total_samples,
        start_samples=start.samples,
    )
