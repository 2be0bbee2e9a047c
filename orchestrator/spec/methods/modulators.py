"""What may change a recipe's model, its loss, or gradients between their sum and the optimizer's step."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field

from orchestrator.spec.methods.engines import NATIVE_STEP
from orchestrator.spec.section import Method, NonNegativeFloat, Patterns, PositiveInt, name_alone


class Modulator(Method):
    """A method of ``modulators``, by what it changes."""

    changes: ClassVar[Literal["model", "loss", "gradient"]]
    """``model``: its layers, before anything else is done to it. ``loss``: how a micro-batch's gradient is computed,
    on whichever process computes it. ``gradient``: the step's, between its sum and the optimizer's step."""


class GhostNorm(Modulator):
    """Batch norms normalize the batch in small parts, each by itself (ghost batch norm, arXiv 1705.08741)."""

    changes = "model"
    name: Literal["ghost_norm"]
    size: PositiveInt
    """Most samples of a part; what is cut is one worker's micro-batch."""


class SyncBatchNorm(Modulator):
    """Batch norms normalize by the statistics of all workers' micro-batches together."""

    changes = "model"
    name: Literal["sync_batch_norm"]


class WeightStandardization(Modulator):
    """Convolutions compute with filters of mean 0 and variance 1 (arXiv 1903.10520)."""

    changes = "model"
    name: Literal["weight_standardization"]
    modules: Patterns | None = None
    """Convolutions, or modules that hold them, each by its class or by its dotted name with * for one part; null takes
    every convolution. Those that no normalization follows are better left out."""


class BatchChannelNorm(Modulator):
    """Batch norms are followed by a normalization over groups of channels (arXiv 1911.09738)."""

    changes = "model"
    name: Literal["batch_channel_norm"]
    groups: PositiveInt = 32
    """Groups of channels; must divide the channels of every batch norm."""
    estimate: Annotated[float, Field(gt=0, le=1)] | None = None
    """Rate at which running estimates follow each micro-batch and are normalized by in place of its own statistics, for
    micro-batches of one or two samples; null normalizes by the micro-batch's own."""


class GradientNoise(Modulator):
    """Multiplies every micro-batch's gradient by a random number around 1 (arXiv 1705.08741)."""

    changes = "loss"
    name: Literal["gradient_noise"]
    sigma: NonNegativeFloat = 0.1
    """Standard deviation of the number; with micro-batches of one sample every sample has its own."""


class AdaptiveBraking(Modulator):
    """Shrinks gradients that point along the momentum and lengthens those against it (arXiv 2007.01397)."""

    changes = "gradient"
    name: Literal["adaptive_braking"]
    requires = frozenset({NATIVE_STEP})
    rho: NonNegativeFloat = 2.0
    """Strength; 0 changes nothing."""
    scope: Literal["tensor", "model"] = "tensor"
    """Whether the cosine is taken of each tensor or of the whole model."""
    min_delay: NonNegativeFloat = 0.5
    """Asynchronous and delayed exchanges: mean delay in updates below which `rho` falls to 0 in proportion, as braking
    only costs speed there; 0 always brakes."""


ModulatorConfig = Annotated[
    Annotated[
        GhostNorm | SyncBatchNorm | WeightStandardization | BatchChannelNorm | GradientNoise | AdaptiveBraking,
        Field(discriminator="name"),
    ],
    BeforeValidator(name_alone),
]
