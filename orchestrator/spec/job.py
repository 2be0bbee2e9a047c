"""The roots of the job spec: their fields, in the order a reader needs them, are the contents of a job."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from orchestrator.spec.methods.all_optimizers import OptimizerConfig
from orchestrator.spec.methods.controllers import ConstantBatch, ControllerConfig
from orchestrator.spec.methods.distribution import AllReduce, ExchangeConfig
from orchestrator.spec.methods.early_stopping import EarlyStopping
from orchestrator.spec.methods.engines import Ddp, EngineConfig
from orchestrator.spec.methods.modulators import ModulatorConfig
from orchestrator.spec.methods.optimizers import AdamW
from orchestrator.spec.methods.phases import Phase
from orchestrator.spec.methods.schedules import Constant, ScalingConfig, ScheduleConfig
from orchestrator.spec.methods.sources import RecipeSource, SourceConfig
from orchestrator.spec.retry_classes import RetryClass
from orchestrator.spec.section import (
    Patterns,
    PositiveFloat,
    PositiveInt,
    Section,
    exactly_one,
    list_to_tuple,
    name_alone,
)

MAX_NAME_CHARACTERS = 63
JobName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$", examples=["digits-lamb"])]
EnvironmentName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", examples=["NCCL_DEBUG"])]
# Without the dashes, and without dots: those separate fields in paths.
OptionName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_-]*$", examples=["lr"])]
OptionValue = Annotated[bool | int | float | str | tuple[int | float | str, ...] | None, BeforeValidator(list_to_tuple)]


class Recipe(Section):
    """The user's class: model, data, loss."""

    target: Annotated[
        str, Field(pattern=r"^[^:]+:[A-Za-z_]\w*$", examples=["recipe.py:Digits", "package.module:Class"])
    ]
    """`file.py:Class`, the file next to the spec, or `package.module:Class`, importable by the workers."""
    args: dict[str, Any] = {}
    """Keyword arguments of the class."""


class Script(Section):
    """A Python program that runs on every worker, started as torchrun would start it."""

    path: Annotated[str, Field(pattern=r"^.+\.py$", examples=["train.py"])]
    """The file, in the spec's folder."""
    args: Annotated[tuple[str | int | float, ...], BeforeValidator(list_to_tuple)] = ()
    """Its command line, the same on every worker; numbers are passed as Python writes them."""
    options: Annotated[dict[OptionName, OptionValue], Field(json_schema_extra={"additionalProperties": False})] = {}
    """Options after `args`, by name: `lr: 0.1` is `--lr 0.1`, true is the option alone, false and null leave it out,
    a list is several words after it. See [script_mode.md](script_mode.md#its-command-line)."""

    @property
    def command_line(self) -> tuple[str, ...]:
        """The words after the path."""
        options = (word for name, value in self.options.items() for word in _words_of(name, value))
        return (*map(str, self.args), *options)


def _words_of(name: str, value: Any) -> tuple[str, ...]:
    """An option of a command line."""
    option = f"--{name}"
    if value is None or value is False:
        return ()
    if value is True:
        return (option,)
    if isinstance(value, tuple):
        return (option, *map(str, value))
    # A word of its own would be taken for another option.
    return (f"{option}={value}",) if str(value).startswith("-") else (option, str(value))


class ActivationCheckpointing(Section):
    """Some of what a forward computes is not kept for the backward but computed again: memory for time."""

    policy: Literal["full", "selective"] = "full"
    """full keeps only the inputs of a module; selective keeps the results of matrix products and attention too."""
    modules: Patterns | None = None
    """Modules that are computed again, each by its class or by its dotted name with * for one part; null takes the
    members of every ModuleList."""
    every: PositiveInt = 1
    """One of so many of these modules, in the model's order."""


class AutoClip(Section):
    """Clips the gradient to a quantile of the norms that it has had (AutoClip, arXiv 2007.14469)."""

    quantile: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Share of the norms that are not above the bound, the step's own among them."""
    history: PositiveInt = 1000
    """Steps whose norms are remembered."""


class Train(Section):
    """How long and how precisely to train. Exactly one of steps, epochs, samples."""

    steps: PositiveInt | None = None
    """Number of optimizer steps."""
    epochs: PositiveInt | None = None
    """Number of passes over the training data; the last step takes what is left."""
    samples: PositiveInt | None = None
    """Number of samples; the last step takes what is left."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of the initial weights, the order of the data and every random number of the recipe."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Autocast type of forward and backward; weights stay fp32. fp16 adds dynamic loss scaling."""
    clip_grad_norm: PositiveFloat | None = None
    """Largest global L2 norm of the gradient; null is no clipping."""
    auto_clip: AutoClip | None = None
    """Instead of `clip_grad_norm`: a bound that follows the norms so far; null is none."""
    activation_checkpointing: ActivationCheckpointing | None = None
    """What is computed again in the backward to save memory; null keeps everything."""
    compile: Literal["inductor", "aot_eager", "eager"] | None = None
    """Backend of torch.compile; null does not compile. inductor makes kernels, the others only capture graphs."""
    eval_every: PositiveInt | None = None
    """Steps between evaluations; null evaluates at the end only. There is always one at the end."""
    log_every: PositiveInt = 1
    """Steps between two lines of metrics."""

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        exactly_one(self, ("steps", "epochs", "samples"))
        if self.clip_grad_norm is not None and self.auto_clip is not None:
            raise ValueError("takes at most one of clip_grad_norm, auto_clip")
        return self


class Batch(Section):
    """How many samples make one optimizer step, and who decides."""

    global_size: PositiveInt = 128
    """Samples per optimizer step over all workers."""
    micro_size: PositiveInt | Literal["auto"] | None = None
    """Most samples per worker per backward; null takes a worker's whole share at once. auto: the workers try, before
    they train, which of the sizes that halving gives fit into their memory, and remember the answer in the storage."""
    controller: Annotated[ControllerConfig, BeforeValidator(name_alone)] = ConstantBatch(name="constant")
    """The policy that may change the batch from step to step."""

    @property
    def planned_micro_size(self) -> int | None:
        """`micro_size` before it has been found: auto may take a worker's whole share."""
        return None if self.micro_size == "auto" else self.micro_size


class Data(Section):
    """Where samples come from and how they are prefetched."""

    source: Annotated[SourceConfig, BeforeValidator(name_alone)] = RecipeSource(name="recipe")
    """The recipe's build_datasets, or a Hugging Face data set."""
    loader_workers: Annotated[int, Field(ge=0)] = 0
    """Loader processes of each worker; 0 loads in the worker itself."""
    prefetch: PositiveInt = 2
    """Micro-batches that each loader process prepares ahead."""


class WorkerRange(Section):
    """Elastic workers: as many as there is room for, which may be other numbers while the job runs."""

    min: PositiveInt
    """The least number that the job trains with; it waits for so many."""
    max: PositiveInt
    """The most workers that it takes."""
    samples_per_worker: PositiveInt | None = None
    """Samples of a step that are enough for a worker: as many workers are asked for as have at most so many each, and
    no more are taken. null takes as many as there is room for, or what batch.controller asks for."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min: {self.min} is more than max: {self.max}. Legal: 1 <= min <= max")
        return self

    def __str__(self) -> str:
        return f"{self.min} to {self.max}"


def _form_of_workers(value: Any) -> str:
    return "range" if isinstance(value, dict | WorkerRange) else "number"


class Resources(Section):
    """What the job needs of the cluster; all workers are equal."""

    workers: Annotated[
        Annotated[PositiveInt, Tag("number")] | Annotated[WorkerRange, Tag("range")], Discriminator(_form_of_workers)
    ] = 1
    """Number of workers, or `{min: 2, max: 8}`: as many of them as there is room for, or as are asked for. See
    [elastic.md](elastic.md)."""
    cpus_per_worker: PositiveFloat = 1
    """CPU cores that each worker reserves."""
    gpus_per_worker: Annotated[int, Field(ge=0, le=1)] = 0
    """GPUs that each worker reserves: 0 trains on CPUs with gloo, 1 on a GPU with NCCL."""
    memory_gib_per_worker: PositiveFloat | None = None
    """Most memory of a worker that batch.micro_size: auto may fill, of the GPU where it has one; null is nine tenths of
    what is free, divided by the workers of a node on CPUs."""
    placement: Literal["pack", "spread", "strict_pack", "strict_spread"] = "pack"
    """Ray's placement strategy: close together, apart, all on one node, or one worker per node."""

    @property
    def num_workers(self) -> int:
        """The number of workers; of a range the least, for which everything has to fit."""
        return self.workers if isinstance(self.workers, int) else self.workers.min

    @property
    def max_workers(self) -> int:
        """The number of workers; of a range the most."""
        return self.workers if isinstance(self.workers, int) else self.workers.max


class Checkpoint(Section):
    """When to save and how much to keep."""

    every: PositiveInt | None = 100
    """Steps between checkpoints; null saves only when the job is stopped."""
    keep: PositiveInt = 2
    """How many of the latest checkpoints stay."""
    asynchronous: bool = True
    """Whether training goes on while a checkpoint is written, from a copy in host memory; false waits."""


class Retries(Section):
    """Restarts allowed over the life of the job, by cause."""

    worker_lost: Annotated[int, Field(ge=0)] = 10
    """A node or worker process disappeared. With `exchange: coded` a worker is replaced without a restart, so what
    counts is a shard, or a worker that does not come back."""
    worker_crash: Annotated[int, Field(ge=0)] = 3
    """A worker raised an error outside the recipe."""
    user_error: Annotated[int, Field(ge=0)] = 0
    """The recipe itself raised an error, or the script ended with another exit code than 0."""
    infrastructure: Annotated[int, Field(ge=0)] = 5
    """Ray could not start the workers, or lost track of them, though none of them had failed; or the driver of a
    sweep's trial was killed."""
    classes: Annotated[tuple[RetryClass, ...], BeforeValidator(list_to_tuple)] = ()
    """Failures that count under another cause than their own, by exit code or by a pattern of what was printed."""


class Queue(Section):
    """How the job waits for its workers; priority and owner count on a cluster, where jobs share a queue."""

    timeout_s: PositiveFloat | None = None
    """Longest wait for the workers in seconds, then the job fails with exit code 4; null waits for ever."""
    priority: int = 0
    """On a cluster, jobs of higher priority go first, and may have running ones of lower priority wait again."""
    owner: Annotated[str, Field(min_length=1, examples=["ann"])] | None = None
    """Whose quota the job counts against; null takes the name of the user who submits it. See [queue.md](queue.md)."""


class Tracking(Section):
    """Which MLflow keeps the history."""

    experiment: Annotated[str, Field(min_length=1, max_length=500)] | None = None
    """MLflow experiment; null takes the job's name."""
    uri: str | None = None
    """Tracking URI; null takes MLFLOW_TRACKING_URI, else sqlite beside the storage path."""
    tags: dict[str, str] = {}
    """Tags of the MLflow run."""
    system_metrics_every_s: PositiveFloat | None = 10.0
    """Seconds between two samples of each node's CPU, memory, disk, network and GPU use; null is off."""


class Trials(Section):
    """How the trials of a sweep are run, where each is a training with workers of its own."""

    concurrent: PositiveInt = 1
    """Trials that run at the same time. On a cluster each waits in the queue for its own workers."""
    early_stopping: EarlyStopping | None = None
    """Which trials are stopped because others are ahead; null lets all finish."""


class _Named(Section):
    name: JobName
    """Run directory and MLflow run name; lower-case letters, digits and hyphens, at most 63.

    Where a spec gives none, it is the name of the spec's folder in lower case, everything else turned into hyphens.
    """


class _Training(Section):
    recipe: Recipe
    """The user's class: model, data, loss."""
    train: Train
    """How long and how precisely to train."""
    batch: Batch = Batch()
    """How many samples make one optimizer step."""
    optimizer: Annotated[OptimizerConfig, BeforeValidator(name_alone)] = AdamW(name="adamw")
    """The update rule and its arguments."""
    schedule: Annotated[ScheduleConfig, BeforeValidator(name_alone)] = Constant(name="constant")
    """How the learning rate moves with the samples seen."""
    scaling: ScalingConfig = ScalingConfig()
    """How the learning rate grows with the batch."""
    then: Annotated[tuple[Phase, ...], BeforeValidator(list_to_tuple)] = ()
    """Further phases after the one that the rest of the spec describes, each by what it changes."""
    engine: Annotated[EngineConfig, BeforeValidator(name_alone)] = Ddp(name="ddp")
    """Where the model lives."""
    exchange: Annotated[ExchangeConfig, BeforeValidator(name_alone)] = AllReduce(name="all_reduce")
    """How many workers' gradients become one update."""
    modulators: Annotated[tuple[ModulatorConfig, ...], BeforeValidator(list_to_tuple)] = ()
    """What changes the recipe's model, its loss, its samples or the step's gradient, in this order."""
    data: Data = Data()
    """Where samples come from."""
    checkpoint: Checkpoint = Checkpoint()
    """When to save and how much to keep."""


class _Scripted(Section):
    script: Script
    """A Python program that runs on every worker, in place of a recipe."""


_SWEPT = {"anyOf": [{"type": "object", "minProperties": 1}, {"type": "array", "minItems": 1}]}


class _Conditions(Section):
    resources: Resources = Resources()
    """What the job needs of the cluster."""
    retries: Retries = Retries()
    """Restarts allowed, by cause."""
    queue: Queue = Queue()
    """How the job waits for its workers."""
    tracking: Tracking = Tracking()
    """Which MLflow keeps the history."""
    storage: str | None = None
    """Folder of all run directories; null takes ORCHESTRATOR_STORAGE, else ./runs."""
    mirror: Annotated[str, Field(pattern=r"^[a-z][a-z0-9+.-]*://.*[^/]/*$", examples=["s3://bucket/runs"])] | None = (
        None
    )
    """Where the driver keeps a copy of the run directory, as a URL that fsspec opens; null keeps none.
    See [mirror.md](mirror.md)."""
    env: Annotated[dict[EnvironmentName, str | None], Field(json_schema_extra={"additionalProperties": False})] = {}
    """Environment of the workers; null takes the submitter's value, which must exist."""
    sweep: Annotated[dict[str, Any], Field(json_schema_extra={"additionalProperties": _SWEPT})] = {}
    """Dotted paths, each with a list of values: every combination is a training.

    `zip: {...}` around the paths puts the lists side by side; `grid: {...}` says that it combines them; `random: {...}`
    draws `trials` values from each path's distribution. With `exchange: coded` the trainings share the workers, else
    each has its own. See [sweeps.md](sweeps.md).
    """
    trials: Trials = Trials()
    """How the trials of a sweep are run, where each is a training with workers of its own."""


# A class takes over the fields of its last base first.
class JobSpec(_Conditions, _Training, _Named):
    """One training job that follows a recipe."""


class ScriptJobSpec(_Conditions, _Scripted, _Named):
    """One job that runs a script in place of a recipe; what it trains, and how, is the script's own affair."""


AnyJobSpec = JobSpec | ScriptJobSpec
"""What a spec may describe; a spec with `script` is the latter."""
