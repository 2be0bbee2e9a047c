"""Engines that a spec may name, and what each lets methods count on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import Field, model_validator

from orchestrator.spec.section import Patterns, PositiveInt, Section

WHOLE_TENSORS = "whole_tensors"
"""The optimizer sees every tensor as a whole: norms of a tensor need no communication."""
ROWS = "rows"
"""The optimizer sees whole rows: tensors are whole, or divided between elements of their first dimension."""
LOCAL_GRADIENTS = "local_gradients"
"""A rank's own gradient exists as a whole before it is summed over ranks."""
WHOLE_STEP = "whole_step"
"""The optimizer steps on all parameters at once, so that a step may depend on sums over all of them."""
STEP_LOSS = "step_loss"
"""The optimizer is told the loss of the step over all ranks, and steps on all parameters at once."""
HESSIAN_PRODUCTS = "hessian_products"
"""Gradients can be differentiated again: products of the loss's Hessian with a vector are summed over ranks."""
WHOLE_WEIGHTS = "whole_weights"
"""The recipe's loss is called with an ordinary module that holds whole weights: others can be put in their place for a
call, and gradients be computed beside the step's own."""
NATIVE_STEP = "native_step"
"""The optimizer's own step is taken on the model's parameters, whole or divided: hooks see whole layers' tensors."""
GRADIENT_GROUPS = "gradient_groups"
"""The norms of the gradients of a step's groups of samples, workers or micro-batches, can be measured."""
GROUP_PRODUCTS = "group_products"
"""So can their inner products with the step's gradient."""
REWINDS = "rewinds"
"""Within a training, weights and optimizer state can be put back to the last bit as they were."""
EXACT_BATCH = frozenset({"changing_batch", "uneven_batch"})
"""The batch may change from step to step, and slices and micro-batches may differ in size; what is trained is exact."""


class Engine(Section):
    """What every engine declares: the capabilities that methods may require of it."""

    variants: ClassVar[tuple[Mapping[str, Any], ...]] = ({},)
    """Arguments of the variants that differ in what they provide: the columns of the table of engines and methods."""
    name: str

    @property
    def provides(self) -> frozenset[str]:
        """Capabilities that methods may require."""
        raise NotImplementedError

    @property
    def title(self) -> str:
        """Name of the variant for people."""
        return self.name

    @classmethod
    def configurations(cls) -> Iterator[Engine]:
        """One configuration of each variant."""
        for arguments in cls.variants:
            yield cls.model_validate({"name": get_args(cls.model_fields["name"].annotation)[0], **arguments})


class Ddp(Engine):
    """Each worker holds a whole replica; gloo on CPUs, NCCL on GPUs."""

    name: Literal["ddp"]

    @property
    def provides(self) -> frozenset[str]:
        """See the base class."""
        measured = {GRADIENT_GROUPS, GROUP_PRODUCTS}
        steps = {WHOLE_STEP, STEP_LOSS, NATIVE_STEP, HESSIAN_PRODUCTS, REWINDS}
        return EXACT_BATCH | measured | steps | {WHOLE_TENSORS, ROWS, LOCAL_GRADIENTS, WHOLE_WEIGHTS}


class Mesh(Section):
    """Workers as replica groups: each group shards the model among its workers, and groups hold the same."""

    replicate: PositiveInt = 1
    """Number of replica groups; 1 shards over all workers."""
    shard: PositiveInt | None = None
    """Workers of one group; null is all workers divided by `replicate`."""


class Fsdp2(Engine):
    """torch's fully sharded data parallelism: weights, gradients and optimizer state divided among the workers."""

    name: Literal["fsdp2"]
    wrap_modules: Patterns | None = None
    """Modules gathered and freed as units, each by its class or by its dotted name with * for one part; null takes
    the members of every ModuleList."""
    wrap_min_parameters: PositiveInt | None = None
    """Instead of `wrap_modules`: every smallest module with at least so many parameters is a unit."""
    mesh: Mesh = Mesh()
    """Replica groups (hybrid sharding)."""
    reshard_after_forward: bool = True
    """Whether a unit's gathered weights are freed between forward and backward; false trades memory for one
    all-gather less."""
    cpu_offload: bool = False
    """Whether weights, gradients and optimizer state stay in host memory; the step then runs on the CPU."""
    param_dtype: Literal["bf16", "fp16"] | None = None
    """Type in which weights are gathered and computed with, below autocast; null is theirs."""
    reduce_dtype: Literal["fp32", "bf16"] | None = None
    """Type in which gradients are summed over workers; null is that of the gradients."""

    @model_validator(mode="after")
    def _one_policy(self) -> Self:
        if self.wrap_modules is not None and self.wrap_min_parameters is not None:
            raise ValueError("takes at most one of wrap_modules, wrap_min_parameters")
        return self

    @property
    def provides(self) -> frozenset[str]:
        """See the base class."""
        return EXACT_BATCH | {ROWS, WHOLE_STEP, STEP_LOSS, NATIVE_STEP, GRADIENT_GROUPS, REWINDS}


class DeepSpeed(Engine):
    """DeepSpeed's ZeRO: optimizer state (stage 1), gradients (2) and weights (3) divided among the workers."""

    variants: ClassVar[tuple[Mapping[str, Any], ...]] = ({"zero_stage": 0}, {"zero_stage": 2})
    name: Literal["deepspeed"]
    zero_stage: Literal[0, 1, 2, 3] = 2
    """What is divided: 0 nothing, 1 optimizer state, 2 gradients too, 3 weights too."""
    offload_optimizer: Literal["cpu"] | None = None
    """Where optimizer state lives and the step runs; null is the worker's device. Needs stage 1 or more."""
    offload_param: Literal["cpu"] | None = None
    """Where weights live between uses; null is the worker's device. Needs stage 3."""
    config: Annotated[dict[str, Any] | str | None, Field(examples=["ds_config.json"])] = None
    """DeepSpeed's own configuration, inline or a JSON file next to the spec. "auto" takes the job's value; a value
    that contradicts the spec is an error."""

    @property
    def provides(self) -> frozenset[str]:
        """See the base class."""
        always = EXACT_BATCH | {GRADIENT_GROUPS}
        return always | {WHOLE_TENSORS, ROWS, WHOLE_STEP, STEP_LOSS} if self.zero_stage == 0 else always

    @property
    def title(self) -> str:
        """See the base class."""
        return f"deepspeed (zero_stage {self.zero_stage})"


class Accelerate(Engine):
    """FSDP2 or DeepSpeed as Hugging Face Accelerate sets them up, for teams with Accelerate configurations."""

    variants: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"config": {"distributed_type": "FSDP"}},
        {"config": {"distributed_type": "DEEPSPEED"}},
    )
    name: Literal["accelerate"]
    config: Annotated[dict[str, Any] | str, Field(examples=["accelerate.yaml"])]
    """Accelerate's configuration as `accelerate config` writes it, inline or a YAML file next to the spec:
    `distributed_type: FSDP` with `fsdp_config`, or `DEEPSPEED` with `deepspeed_config`. What the job decides itself
    (processes, machines, precision, accumulation, clipping) may be left out and must not contradict it."""

    @property
    def provides(self) -> frozenset[str]:
        """See the base class; what a file says is not known here."""
        always = EXACT_BATCH | {GRADIENT_GROUPS}
        return always | {ROWS, WHOLE_STEP, STEP_LOSS, REWINDS} if self._kind == "FSDP" else always

    @property
    def title(self) -> str:
        """See the base class."""
        return self.name if self._kind is None else f"{self.name} ({self._kind})"

    @property
    def _kind(self) -> Any:
        return self.config.get("distributed_type") if isinstance(self.config, dict) else None


EngineConfig = Annotated[Ddp | Fsdp2 | DeepSpeed | Accelerate, Field(discriminator="name")]
