"""Batch controllers that a spec may name: who decides how many samples make a step."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from orchestrator.spec.methods.engines import GRADIENT_GROUPS, GROUP_PRODUCTS, REWINDS
from orchestrator.spec.methods.schedules import ScalingRule
from orchestrator.spec.section import Method, NonNegativeFloat, PositiveFloat, PositiveInt, Section, list_to_tuple

DEFAULT_HALF_LIFE = 100
"""Batches of `batch.global_size` after which a measured step counts half."""
DEFAULT_GROWTH = 16
"""Times `batch.global_size` that the batch grows to at most."""
LEAST_BRANCH_STEPS = 4
"""Steps of a branch below which its loss says too little."""

Coupling = ScalingRule
"""What a grown batch makes of the learning rate: as `scaling` does for a batch that stays."""


class Statistic(Section):
    """How the noise of the gradient is measured, from the norms of the gradients of workers or micro-batches."""

    every: PositiveInt = 10
    """Steps between two measured ones."""
    half_life_samples: PositiveInt | None = None
    """Samples after which a measured step counts half in the averages; null is 100 times batch.global_size."""
    preconditioned: bool = False
    """Whether gradients are divided by the root of Adam's second moment first, as its updates are. Needs optimizer
    adamw and an engine on which every worker holds whole tensors."""


class Guards(Section):
    """What keeps a batch from following its policy too far, too fast or for no good reason."""

    max_size: PositiveInt | None = None
    """Largest batch in samples; null is 16 times batch.global_size."""
    min_size: PositiveInt | None = None
    """Smallest batch in samples; null is batch.global_size."""
    shrink: bool = False
    """Whether the batch may become smaller again."""
    growth: Annotated[float, Field(gt=1)] = 2.0
    """Largest factor of one change, in both directions."""
    hysteresis: Annotated[float, Field(ge=1)] = 1.5
    """Nothing changes unless the policy asks for more than so many times the present batch, or less than one part
    in so many."""
    cooldown_samples: Annotated[int, Field(ge=0)] | None = None
    """Samples for which the batch stays after a change; null is the half-life of the statistic."""
    min_measurements: PositiveInt = 20
    """Measured steps before the first change."""
    confidence: NonNegativeFloat = 2.0
    """Nothing changes unless the true gradient's squared norm is estimated as more than so many of its own standard
    errors; 0 does not ask."""
    in_warmup: bool = False
    """Whether the batch may change before the end of the schedule's warmup."""
    quantum: PositiveInt | None = None
    """Batches are multiples of so many samples; null is the number of workers, times batch.micro_size where each worker
    has more than that."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.min_size is not None and not self.shrink:
            raise ValueError("min_size needs shrink: true; without it the batch never becomes smaller")
        if self.min_size is not None and self.max_size is not None and self.min_size > self.max_size:
            raise ValueError(f"min_size {self.min_size} is above max_size {self.max_size}")
        return self


class ConstantBatch(Method):
    """The same batch at every step."""

    name: Literal["constant"]


class ScheduledBatch(Method):
    """The batch follows the samples seen, in steps or along straight lines, whatever the gradient does."""

    name: Literal["schedule"]
    sizes: Annotated[str, Field(pattern=r"^\d+:\d+( \d+:\d+)*$", examples=["250000:1536 500000:3072"])]
    """`position:batch` pairs with increasing positions: from there on steps have so many samples. Before the first the
    batch is batch.global_size."""
    tokens_per_sample: PositiveInt | None = None
    """Where given, positions count tokens, so many for each sample; null counts samples. From the phase's start."""
    ramp: bool = False
    """Whether the batch moves in a straight line from one pair to the next instead of jumping at it."""
    quantum: PositiveInt | None = None
    """A ramp stops at multiples of so many samples; null is a sixteenth of the largest batch."""
    coupling: Coupling = "none"
    """What the grown batch makes of the learning rate; see noise_scale."""

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """Position and batch of each pair."""
        return tuple((int(at), int(size)) for at, size in (pair.split(":") for pair in self.sizes.split(" ")))

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        positions = [at for at, _ in self.pairs]
        if positions != sorted(set(positions)):
            raise ValueError(f"sizes: positions must increase; got {', '.join(map(str, positions))}")
        if any(size < 1 for _, size in self.pairs):
            raise ValueError("sizes: a batch has at least 1 sample")
        if self.coupling == "gain":
            raise ValueError("coupling 'gain' needs a noise scale, and a schedule measures none; take linear or sqrt")
        if self.quantum is not None and not self.ramp:
            raise ValueError("quantum is of a ramp; without one the batches are those of sizes")
        return self


class Adaptive(Method):
    """What the controllers that measure the gradient's noise have in common."""

    requires = frozenset({GRADIENT_GROUPS})
    coupling: Coupling = "sqrt"
    """What a batch k times batch.global_size makes of the scheduled rate. none: nothing; linear: times k; sqrt: times
    k^0.5; sde: sqrt, and every beta of the optimizer becomes 1 - k (1 - beta), its eps eps / k^0.5; gain: times
    k (phi + batch.global_size) / (phi + batch), with the noise scale phi at the change."""
    statistic: Statistic = Statistic()
    """How the noise of the gradient is measured."""
    guards: Guards = Guards()
    """What keeps the batch from following too far or too fast."""


class NormTest(Adaptive):
    """AdAdaGrad's norm test: the batch at which the gradient's error is eta times the gradient.

    In expectation it is the noise scale times (1 - eta^2) / eta^2: 99 times for eta 0.1, 15 for 0.25, 3 for 0.5. Each
    decision says so.
    """

    name: Literal["norm_test"]
    eta: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Largest relative error of the gradient, root mean square."""
    corrected: bool = True
    """true: where the test turns in expectation, from running averages. false: the published rule from each measured
    step alone, noise / (eta^2 |gradient|^2), which asks for 1 / eta^2 times the batch where noise dominates."""
    coupling: Coupling = "none"
    """See noise_scale; the published method leaves the rate alone."""


class InnerProductTest(Adaptive):
    """The inner-product test: the batch at which a step's gradient points along the true one.

    With `nu` it is augmented by the orthogonality test; the larger of the two counts. Inner products are of whole
    gradients, over all tensors.
    """

    requires = frozenset({GRADIENT_GROUPS, GROUP_PRODUCTS})
    name: Literal["inner_product_test"]
    theta: PositiveFloat = 0.9
    """Largest relative error of the inner product of a step's gradient with the mean one, root mean square."""
    nu: PositiveFloat | None = None
    """Largest part of a step's gradient at right angles to the mean one, relative to it, root mean square; null does
    not test it."""
    coupling: Coupling = "none"
    """See noise_scale; the published method leaves the rate alone."""


class NoiseScale(Adaptive):
    """A multiple of the gradient noise scale, the batch at which noise and gradient are equally large."""

    name: Literal["noise_scale"]
    multiple: PositiveFloat = 1.0
    """Batch over noise scale."""


class CosineTarget(Adaptive):
    """SimiGrad's aim: the batch at which the gradients of its two halves have a given cosine.

    In expectation the cosine is 1 / (1 + 2 x noise scale / batch).
    """

    name: Literal["cosine_target"]
    cosine: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """To aim at; 0.8 is 8 times the noise scale, 0.2 half of it."""


class AdaScale(Method):
    """AdaScale: the batch stays, and a small batch's rate is multiplied by what the large one gains at each moment.

    The gain lies between 1 and k = batch.global_size / reference_batch.
    """

    requires = frozenset({GRADIENT_GROUPS})
    name: Literal["adascale"]
    reference_batch: PositiveInt
    """Batch in samples at which the optimizer's lr was tuned."""
    exponent: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Power of the gain that multiplies the rate: 1 for SGD, 0.5 for Adam and its kin."""
    statistic: Statistic = Statistic(every=1)
    """How the noise of the gradient is measured; the gain is renewed after every measured step."""


class Goodput(Adaptive):
    """Pollux's goodput: the batch with the most progress per second, samples per second times their worth.

    A model of the step's time is fitted to the steps so far; a sample of batch B is worth
    (phi + batch.global_size) / (phi + B) of one of the first batch, phi being the noise scale. Of workers that are a
    range it asks for as many as pay.
    """

    name: Literal["goodput"]
    min_speedup: Annotated[float, Field(ge=1)] = 1.05
    """Progress per second over the present one below which the batch stays, and the number of workers asked for."""
    min_utility: Annotated[float, Field(gt=0, le=1)] | None = 0.5
    """Where resources.workers is a range: progress per second and worker, over that of resources.workers.min, that more
    workers must keep to be asked for. null does not ask: the job takes as many as there is room for."""
    coupling: Coupling = "gain"
    """See noise_scale."""


class Seesaw(Method):
    """Seesaw: where the schedule would cut the rate by a factor, the rate falls by its root and the batch grows by it.

    Meant for Adam and its kin, whose steps are normalized, up to the critical batch size. Give the length in samples or
    epochs: they take fewer steps then, while a number of steps would take more samples.
    """

    name: Literal["seesaw"]
    factor: Annotated[float, Field(gt=1)] = 1.1
    """Of the schedule's rate from one change of the batch to the next."""
    max_size: PositiveInt | None = None
    """Largest batch in samples; beyond it the rate falls as scheduled. null is 16 times batch.global_size."""


class CbsProbe(Method):
    """Branched training: at times, short branches with larger batches tell whether the batch may double.

    Every branch goes on from the weights of the moment with the samples that come next, at a constant rate, which goes
    with its batch. The critical batch is the largest whose branch ends with a loss at most `tolerance` above that of
    every smaller one. Where it is at least twice the present batch, the batch doubles. Nothing else of a branch stays.
    """

    requires = frozenset({REWINDS})
    name: Literal["cbs_probe"]
    every_samples: PositiveInt
    """Samples from one probe to the next, those of the branches not counted."""
    branch_samples: PositiveInt
    """Samples of each branch; at least 4 steps of the largest batch."""
    after_samples: PositiveInt | None = None
    """Samples before the first probe; null is every_samples."""
    multiples: Annotated[tuple[PositiveInt, ...], BeforeValidator(list_to_tuple)] = (1, 2, 4)
    """Batches of the branches over the present one; those above max_size are left out."""
    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Of a branch's average loss, what is kept at each step of the present batch, and to the power k at one of k times
    the batch: the larger, the more steps count, and the less their noise."""
    tolerance: NonNegativeFloat = 0.01
    """How far above that of a smaller batch a branch's average loss may end."""
    coupling: Literal["none", "linear", "sqrt"] | None = None
    """What a batch k times batch.global_size makes of the scheduled rate, in branches too. none: nothing; linear: times
    k; sqrt: times k^0.5; null: linear for optimizer sgd, else sqrt."""
    max_size: PositiveInt | None = None
    """Largest batch in samples, from which on nothing is probed; null is 16 times batch.global_size."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.multiples != tuple(sorted(set(self.multiples))) or self.multiples[:2] != (1, 2):
            raise ValueError(f"multiples: {list(self.multiples)} do not increase from 1, 2 on, as in [1, 2, 4]")
        return self


ControllerConfig = Annotated[
    ConstantBatch
    | ScheduledBatch
    | NormTest
    | InnerProductTest
    | NoiseScale
    | CosineTarget
    | AdaScale
    | Goodput
    | Seesaw
    | CbsProbe,
    Field(discriminator="name"),
]
