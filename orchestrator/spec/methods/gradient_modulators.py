"""What may change gradients between their sum and the optimizer's step."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from orchestrator.spec.methods.engines import GRADIENT_GROUPS, LOCAL_GRADIENTS, NATIVE_STEP
from orchestrator.spec.methods.modulator import Modulator
from orchestrator.spec.section import (
    DecayRate,
    NonNegativeFloat,
    Patterns,
    PositiveFloat,
    PositiveInt,
    list_to_tuple,
)


class AdaptiveBraking(Modulator):
    """Shrinks gradients that point along the momentum and lengthens those against it (arXiv 2007.01397)."""

    changes = frozenset({"gradient"})
    name: Literal["adaptive_braking"]
    requires = frozenset({NATIVE_STEP})
    rho: NonNegativeFloat = 2.0
    """Strength; 0 changes nothing."""
    scope: Literal["tensor", "model"] = "tensor"
    """Whether the cosine is taken of each tensor or of the whole model."""
    min_delay: NonNegativeFloat = 0.5
    """Asynchronous and delayed exchanges: mean delay in updates below which `rho` falls to 0 in proportion, as braking
    only costs speed there; 0 always brakes."""


class MeasuresModules(Modulator):
    """The base of what looks at the gradients of the model's modules, group by group."""

    changes = frozenset({"gradient"})
    requires = frozenset({GRADIENT_GROUPS})
    modules: Annotated[dict[str, Patterns], Field(min_length=1)] | None = None
    """Name of each module with its parameters, each pattern a dotted name of a parameter or of what it belongs to, or a
    class, with * for one part; parameters that none matches are one more module, `rest`. null takes those of the
    recipe's `parameter_modules(model)`, else the model's children."""
    every: PositiveInt = 10
    """Steps from one measurement to the next."""
    preconditioned: bool = False
    """Whether gradients are divided by the root of Adam's second moment first, as its updates are. Needs optimizer
    adamw and an engine on which every worker holds whole tensors."""


class Agvm(MeasuresModules):
    """Adapts each module's learning rate until its updates are as noisy as the anchor's (arXiv 2210.11078)."""

    name: Literal["agvm"]
    estimator: Literal["norms", "split"] = "norms"
    """How 1 - cos of two halves' gradients is found: norms takes the mean over all halvings of the workers (or of the
    micro-batches where an engine shows only those), split the halves themselves, as the paper does. split needs an
    even number of workers, or one with micro-batches, and engine ddp or fsdp2."""
    anchor: str | None = None
    """The module that the others follow; null takes the first, which should be the backbone."""
    start_step: Annotated[int, Field(ge=0)] | None = None
    """Step from which on it measures; null begins with the end of the schedule's warmup."""
    decay: DecayRate = 0.97
    """Of the running average of each module's factor."""
    bounds: Annotated[tuple[PositiveFloat, PositiveFloat], BeforeValidator(list_to_tuple)] = (0.5, 10.0)
    """Least and greatest ratio of two variances; a factor is the root of one."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.bounds[0] > 1 or self.bounds[1] < 1:
            raise ValueError("bounds must have 1 between them: equal modules keep their learning rate")
        if self.anchor is not None and self.modules is not None and self.anchor not in self.modules:
            raise ValueError(f"anchor must be one of the modules: {', '.join(self.modules)}")
        if self.modules is not None and len(self.modules) < 2:
            raise ValueError("modules needs two at least: they are compared")
        return self


class ModuleNoise(MeasuresModules):
    """Tells the gradient noise scale of each module of the model, and changes nothing."""

    name: Literal["module_noise"]
    half_life_steps: PositiveInt = 100
    """Steps after which a measured one counts half in the averages."""


class Vrgd(Modulator):
    """Shrinks elements of the gradient by their signal-to-noise ratio among the workers (VRGD)."""

    changes = frozenset({"gradient"})
    name: Literal["vrgd"]
    requires = frozenset({LOCAL_GRADIENTS, NATIVE_STEP})
    floor: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Least factor of an element; 1 changes nothing."""
