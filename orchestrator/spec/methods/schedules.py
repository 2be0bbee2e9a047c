"""Learning-rate schedules, all driven by samples seen, and the warmup in front of them."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from orchestrator.spec.section import Method, PositiveFloat, PositiveInt, Section, exactly_one


class Warmup(Section):
    """Linear warmup from 0; exactly one unit is given."""

    steps: PositiveInt | None = None
    """Length in optimizer steps at the spec's global batch size."""
    epochs: PositiveFloat | None = None
    """Length in passes over the training data."""
    samples: PositiveInt | None = None
    """Length in samples."""
    fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    """Length as a share of the whole training, in (0, 1]."""
    scale_with_batch: bool = False
    """Whether the length is that of scaling.reference_batch and grows with the batch: times batch.global_size /
    reference_batch, the linear-epoch warmup. Not with steps, which grow with the batch as they are."""

    @model_validator(mode="after")
    def _one_unit(self) -> Self:
        exactly_one(self, ("steps", "epochs", "samples", "fraction"))
        if self.scale_with_batch and self.steps is not None:
            raise ValueError(
                "scale_with_batch needs a length in epochs, samples or fraction: the samples of "
                f"{self.steps} steps grow with the batch already"
            )
        return self


class ScheduleBase(Method):
    """What every schedule takes."""

    warmup: Warmup | None = None
    """Linear warmup; null starts at the full rate."""


class Constant(ScheduleBase):
    """The same rate to the end."""

    name: Literal["constant"]


class Polynomial(ScheduleBase):
    """(1 - progress)^power from the end of the warmup to the end of the training."""

    name: Literal["polynomial"]
    power: PositiveFloat = 1.0
    """Exponent; 1 is linear decay."""
    final_fraction: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the peak rate that remains at the end."""


class Cosine(ScheduleBase):
    """Half a cosine from the end of the warmup to the end of the training."""

    name: Literal["cosine"]
    final_fraction: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the peak rate that remains at the end."""


ScheduleConfig = Annotated[Constant | Polynomial | Cosine, Field(discriminator="name")]


ScalingRule = Literal["none", "linear", "sqrt", "sde", "gain"]
"""What a larger batch may make of the learning rate."""


class ScalingConfig(Section):
    """How the rate grows with the batch: lr x rule(k), where k = batch.global_size / reference_batch."""

    rule: ScalingRule = "none"
    """none: 1; linear: k; sqrt: k^0.5; sde: k^0.5, with every beta of the optimizer turned into 1 - k (1 - beta) and
    its eps into eps / k^0.5; gain: k (phi + reference_batch) / (phi + batch.global_size), phi = noise_scale."""
    reference_batch: PositiveInt | None = None
    """Global batch size at which the optimizer was tuned, in samples; needed by every rule but none, by
    schedule.warmup.scale_with_batch and by same_updates."""
    noise_scale: PositiveFloat | None = None
    """Gradient noise scale in samples: variance of one sample's gradient over the squared norm of the mean gradient.
    Needed by gain and read by no other rule."""
    same_updates: bool = False
    """Regime adaptation (arXiv 1705.08741): train.epochs or train.samples, and a warmup in such a unit, are lengths at
    reference_batch and are multiplied by ceil(batch.global_size / reference_batch), so that as many updates are taken
    as there. Not with train.steps, which are updates already."""

    @model_validator(mode="after")
    def _what_the_rule_reads(self) -> Self:
        if self.rule != "none" and self.reference_batch is None:
            raise ValueError(f"rule {self.rule!r} needs reference_batch, the batch size at which lr was tuned")
        if self.same_updates and self.reference_batch is None:
            raise ValueError("same_updates needs reference_batch, the batch size whose number of updates is taken")
        if self.rule == "gain" and self.noise_scale is None:
            raise ValueError("rule 'gain' needs noise_scale, the gradient noise scale in samples")
        if self.rule != "gain" and self.noise_scale is not None:
            raise ValueError(f"rule {self.rule!r} reads no noise_scale; leave it out, or take rule gain")
        return self
