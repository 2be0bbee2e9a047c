"""The seams: what each part promises to the loop. Implementations never import each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias, runtime_checkable

from orchestrator.core.gradient_stats import GroupNorms
from orchestrator.core.values import BatchPlan, DataPosition, ExchangeReport, Measurement, StepStats

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from orchestrator.core.collectives import Collectives
    from orchestrator.core.flat_shards import FlatShards
    from orchestrator.core.layout import ShardLayout
    from orchestrator.core.parts import DataParts
    from orchestrator.core.served import ModuleSquares, RoundRequest
    from orchestrator.core.shards import Piece, SavedState
    from orchestrator.core.staleness import Staleness


LossFunction: TypeAlias = "Callable[[nn.Module, Any], tuple[Tensor, Mapping[str, Tensor]]]"
"""A recipe's loss: (model, batch) -> (mean loss over the batch, metrics)."""


GradientObserver: TypeAlias = "Callable[[Tensor, Sequence[nn.Parameter]], None]"
"""Is shown the gradients of some parameters, which lie end to end in a flat tensor."""


class Recipe(Protocol):
    """User code: a plain class that knows no ranks, engines or Ray.

    Optional methods: ``evaluate(model, batch)`` returning a mapping of batch means (default: the loss and metrics of
    ``loss``) and ``collate(samples)`` turning a list of samples into a batch (default: torch's ``default_collate``).
    Metrics that are no means over batches take two methods in place of ``evaluate``: ``predict(model, batch)``, what
    is kept of a batch, and ``evaluate_all(predictions)``, called on rank 0 with those of all batches in the order of
    the data, returning a mapping of numbers.

    Optional attribute: ``couples_samples = True`` says that the loss is no mean over samples but one over all samples
    of the batch together, such as those of ``orchestrator.losses``; what would cut a batch is refused then.
    """

    def build_model(self) -> nn.Module:
        """A fresh model; weights are seeded before the call."""

    def build_datasets(self) -> tuple[Any, Any]:
        """Training and evaluation data, map-style; evaluation may be None."""

    def loss(self, model: nn.Module, batch: Any) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Mean loss over the batch (a scalar with gradient) and named metrics, also means over the batch."""


class BatchController(Protocol):
    """Decides the batch before each step; a state machine over values, which are equal on all ranks."""

    def plan(self, stats: StepStats) -> BatchPlan:
        """The next step's batch; called once before each step, and again where it has asked for branches."""

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to take the same decisions after a resume; JSON values."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore ``state_dict``."""


class MicroBatch(Protocol):
    """One rank's share of one backward."""

    batch: Any
    weight: float
    """Share of the step's global batch, num_samples / global_batch_size; 0 for padding that keeps ranks in step."""
    share: float
    """Of the step's samples, where ``weight`` is a share of a part of them, which has a gradient of its own; else 1."""
    is_last: bool


class TrainData(Protocol):
    """Serves one rank's micro-batches of each step."""

    def step(self, plan: BatchPlan) -> tuple[int, Iterator[MicroBatch]]:
        """Samples of the step over all ranks, and this rank's micro-batches, equally many on every rank."""

    @property
    def position(self) -> DataPosition:
        """Where the next step starts."""

    def close(self) -> None:
        """End what works ahead."""


class Exchange(Protocol):
    """Turns local gradients into what the optimizer sees. Leaves parameters as they were when the step began."""

    def attach(self, parameters: Sequence[nn.Parameter]) -> None:
        """Take charge of the gradients of these parameters, in the same order on every rank."""

    def show(self, own: GradientObserver | None, half: GradientObserver | None = None) -> None:
        """Show gradients until the next call, in pieces that become the sum over ranks; None shows none.

        Args:
            own: shown this rank's own gradient, before it is sent.
            half: shown the sum over this rank's half of the ranks, of an even number; sums are made in two steps then.
        """

    def begin(self, *, is_last: bool) -> None:
        """Called before each forward; after the last backward gradients must be exchanged."""

    def before_backward(self) -> None:
        """Called between a forward and its backward."""

    def finish(self) -> ExchangeReport:
        """Wait until every ``.grad`` holds the sum over ranks."""

    def clear(self) -> None:
        """Forget the gradients of the step that was taken."""


@runtime_checkable
class RoundExchange(Protocol):
    """An exchange of the served topology: workers elsewhere compute, the shards of the model receive the sum."""

    def attach(self, model: nn.Module, shards: FlatShards) -> None:
        """Take charge of the gradients of this shard's parameters."""

    def collect(self, request: RoundRequest) -> dict[str, Tensor]:
        """Have a step computed; leaves the sum in the gradients and returns metrics that sum to means over shards."""

    def squares(self) -> ModuleSquares | None:
        """How long the gradients of the step's groups were, where the request asked for it; equal on all shards."""

    def finish(self) -> ExchangeReport:
        """What the step cost."""

    def clear(self) -> None:
        """Forget the gradients of the step that was taken."""

    def close(self) -> None:
        """End the workers' rounds."""


class ModelModulator(Protocol):
    """Gives a recipe's model other layers; all processes of a job do it alike."""

    def change(self, model: nn.Module) -> nn.Module:
        """The model with its changes, in place where that can be; called on a fresh model in host memory.

        Raises:
            RecipeError: where the model has nothing to change.
        """


class LossModulator(Protocol):
    """Changes how a micro-batch's gradient is computed; the gradient is that of the loss it returns."""

    def around(self, loss: LossFunction) -> LossFunction:
        """A loss in place of a recipe's, or of one that another modulator has changed; it may add metrics."""


class Modulator(Protocol):
    """Changes gradients between their sum (clipped, where they are) and the optimizer's step, by a hook on the step."""

    def attach(self, optimizer: torch.optim.Optimizer, staleness: Staleness, collectives: Collectives | None) -> None:
        """Watch the steps of an optimizer.

        Args:
            optimizer: over this rank's parameters, whole or divided.
            staleness: tells how old the gradients of each step are.
            collectives: over the ranks that each step on whole tensors of their own (shards); None where all ranks step
                on the whole model.
        """

    def report(self) -> dict[str, Tensor]:
        """What the last step was like: scalars, equal on all ranks, without a host sync."""


@runtime_checkable
class MeasuringModulator(Protocol):
    """A modulator that looks at the gradients of the model's modules, group by group."""

    halves: bool
    """Whether it looks at the step's two halves."""
    preconditioned: bool
    """Whether it looks at gradients divided by the root of Adam's second moment."""

    def divide(self, optimizer: torch.optim.Optimizer, names: Sequence[str], module_of: Mapping[Tensor, int]) -> None:
        """Learn the model's modules: their names, and the number of each parameter's; groups may be divided by them."""

    def wants(self, step: int, *, is_warmup: bool) -> bool:
        """Whether the coming step, after so many, is to be measured."""

    def take(self, norms: GroupNorms) -> None:
        """What was measured, equal on all ranks; called before a step."""

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on as the undisturbed job after a resume; JSON values."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore ``state_dict``."""


@runtime_checkable
class DataModulator(Modulator, Protocol):
    """Makes something of the samples of the steps ahead while a step is computed; state is kept in the optimizer's."""

    def over(self, data: TrainData, parts: DataParts) -> TrainData:
        """A phase's data, with what was made of them in each micro-batch's ``batch``."""


class Compensation(Protocol):
    """Does something about the delay of gradients; state is kept in the optimizer's, so that checkpoints have it."""

    def attach(self, optimizer: torch.optim.Optimizer, staleness: Staleness) -> None:
        """Watch the steps of an optimizer."""

    def factor(self, delay: int) -> float:
        """What a gradient of this delay is multiplied by in the update's sum."""

    def offset(self, parameter: nn.Parameter) -> Tensor | None:
        """What is added to a parameter where it is sent out to be computed at; None is nothing."""


@runtime_checkable
class RewindingEngine(Protocol):
    """An engine whose training can be put back to an earlier moment of it."""

    def remember(self) -> Callable[[], None]:
        """Copy weights, buffers, optimizer state and numbers to host memory, between two steps.

        Returns:
            What puts them back, to the last bit.
        """


class Tracker(Protocol):
    """Carries metrics and events to the run directory and to MLflow. Never raises into training."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Metrics of one step."""

    def event(self, name: str, fields: Mapping[str, Any]) -> None:
        """One decision."""

    def close(self) -> None:
        """Write what is left."""


class Saver(Protocol):
    """Writes checkpoints; every method is called by all ranks together."""

    def save(self, step: int) -> None:
        """Start writing the state at the end of a step; may return before it is on disk."""

    def poll(self) -> None:
        """Notice what has been written since; does not wait."""

    def wait(self) -> None:
        """Return when everything is on disk."""


@runtime_checkable
class LayerwiseOptimizer(Protocol):
    """An optimizer whose step needs sums over whole parameters, however their elements are divided."""

    per_parameter_state: ClassVar[frozenset[str]]
    """Names of state that is one number for each parameter: [parameters of a flat partition], else a scalar."""

    def runs_on(self) -> str:
        """What runs the step, for people; all ranks ask together."""

    def attach(self, layout: ShardLayout) -> None:
        """Learn where parameters lie in flat partitions; whole tensors and DTensors need no telling."""

    def report(self) -> dict[str, Tensor]:
        """What the last step did to each layer: scalars in host memory, equal on all ranks, complete a step later."""


@runtime_checkable
class LossOptimizer(Protocol):
    """An optimizer whose step depends on the loss and not on its gradient alone; it steps on all parameters at once."""

    def take_loss(self, loss: Tensor) -> None:
        """The mean loss over the global batch of the step that comes next, a scalar, equal on all ranks."""


@runtime_checkable
class CurvatureOptimizer(Protocol):
    """An optimizer whose step depends on the diagonal of the loss's Hessian."""

    def take_curvature(self, estimates: Mapping[Tensor, Tensor]) -> None:
        """An estimate of the diagonal for the step that comes next, by parameter, equal on all ranks."""


class Engine(Protocol):
    """Owns the model, its optimizer and the step; names no method."""

    model: nn.Module
    tied: Mapping[str, str]
    """Further names of tied tensors in the model's ``state_dict``, with the first name of each."""

    def begin_step(self, measurement: Measurement | None = None) -> None:
        """Called before the first micro-batch of a step, with what is to be measured in it."""

    def measured(self) -> GroupNorms | None:
        """What was measured in the step before the last one, equal on all ranks; called once before each step."""

    def forward_backward(self, micro: MicroBatch, loss: LossFunction) -> dict[str, Tensor]:
        """Add one micro-batch; returns detached metrics weighted by the micro-batch's share of the step."""

    def step(self, lr: float) -> dict[str, Tensor | float]:
        """Sum gradients, update the weights; returns metrics that only the engine knows, equal on all ranks."""

    def evaluating(self) -> AbstractContextManager[nn.Module]:
        """The model in evaluation mode, without gradients."""

    def close(self) -> None:
        """End what works beside the training."""

    def pieces(self) -> dict[str, Piece]:
        """This rank's live pieces of model and optimizer state under engine-independent names, all of them named."""

    def load(self, saved: SavedState) -> None:
        """Take over a checkpoint, written by any engine on any number of ranks."""

    def choices(self) -> dict[str, str]:
        """What was chosen for the job and is not in its spec, for people; all ranks ask together."""

    def numbers(self) -> dict[str, Any]:
        """State that is no tensor, as JSON values.

        ``scaler``, the dynamic loss scale; ``clipping``, norms seen; ``measured``, what ``measured`` is still to tell.
        """

    def load_numbers(self, state: Mapping[str, Any]) -> None:
        """Restore ``numbers``."""
