"""What all engines share: buffers, precision, the weight of a micro-batch."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from orchestrator.core.collectives import Collectives
from orchestrator.core.coupling import Coupling, coupled
from orchestrator.core.gradient_stats import GroupNorms
from orchestrator.core.padding import UNDER_WAY
from orchestrator.core.protocols import LayerwiseOptimizer, LossFunction, MicroBatch
from orchestrator.core.shards import Piece, SavedState
from orchestrator.core.state_naming import model_tensors
from orchestrator.core.values import Measurement
from orchestrator.engines.gradient_norms import GradientNorms
from orchestrator.engines.precision import Precision

CUT = "batch.micro_size cuts them into micro-batches, one after the other. Legal: null, and smaller chunks in the loss."
"""Why a loss over all samples of a batch is refused where a rank takes its share of a step in pieces."""


class EngineBase(ABC):
    """An engine over a model whose buffers every rank holds as a whole.

    Args:
        model: set up: on its device, divided where the engine divides it.
        collectives: the job's collectives.
        precision: autocast.
        called: what a recipe calls as its model; None is ``model``.
        groups_of_workers: whether a worker's own gradient is measured as a whole; else those of its micro-batches.
        module_of: see ``core.parts.EngineParts``.
    """

    def __init__(
        self,
        model: nn.Module,
        collectives: Collectives,
        precision: Precision,
        *,
        called: nn.Module | None = None,
        groups_of_workers: bool = False,
        module_of: Mapping[str, int] | None = None,
    ) -> None:
        self.model = model
        self._called = called or model
        self.tied: Mapping[str, str] = model_tensors(model)[1]
        self._collectives = collectives
        self._precision = precision
        self._norms = GradientNorms(collectives, per_micro_batch=not groups_of_workers, module_of=module_of)
        # Running statistics are only written while training: sharing them at each step would be a message for nothing.
        self._read_in_training = [
            buffer
            for module in model.modules()
            if not isinstance(module, _NormBase)
            for buffer in module.buffers(False)
        ]
        model.train()

    def begin_step(self, measurement: Measurement | None = None) -> None:
        """Give all ranks rank 0's buffers, as torch's data parallelism does, where a training forward reads them."""
        self._collectives.broadcast_(self._read_in_training)
        self._norms.begin_step(measurement)
        if measurement is not None:
            self._watch_gradients()

    def _watch_gradients(self) -> None:
        """Have every gradient of the step shown to ``_norms``: by default those of single micro-batches."""
        self._norms.watch({name: p for name, p in self.model.named_parameters() if p.requires_grad})

    def measured(self) -> GroupNorms | None:
        """What was measured in the step before the last one; called once before each step."""
        return self._norms.tell()

    def _share_buffers(self) -> None:
        """Give all ranks rank 0's buffers, running statistics included."""
        self._collectives.broadcast_(list(self.model.buffers()))

    def _forward(self, micro: MicroBatch, loss: LossFunction) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a micro-batch times its share of the global batch.

        Summed over micro-batches and ranks such losses give exactly the global mean, whatever their sizes.

        Returns:
            That loss, and ``loss`` and the recipe's metrics, detached, with the same weight.
        """
        # A step of one micro-batch has its last one first.
        how = Coupling(counts=micro.weight > 0, refusal="" if micro.is_last else CUT)
        with coupled(how):
            return weighted_loss(self._called, micro, loss, self._precision)

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[nn.Module]:
        """The model in evaluation mode, without gradients, with rank 0's buffers everywhere."""
        self._share_buffers()
        self.model.eval()
        with torch.no_grad(), self._precision.forward():
            yield self._called
        self.model.train()

    @abstractmethod
    def forward_backward(self, micro: MicroBatch, loss: LossFunction) -> dict[str, Tensor]:
        """Add one micro-batch to the step's gradient; returns metrics weighted by its share of the step."""

    @abstractmethod
    def step(self, lr: float) -> dict[str, Tensor | float]:
        """Sum gradients over ranks and update the weights at the learning rate ``lr``.

        Returns:
            What only the engine knows: ``grad_norm`` before clipping, ``loss_scale``, ``bytes_sent``.
        """

    def close(self) -> None:  # noqa: B027 - most engines have nothing to end
        """End what works beside the training."""

    @abstractmethod
    def pieces(self) -> dict[str, Piece]:
        """This rank's live pieces of model and optimizer state; every rank names all tensors. A collective."""

    @abstractmethod
    def load(self, saved: SavedState) -> None:
        """Take over the state of a checkpoint, written by any engine on any number of ranks.

        Raises:
            CheckpointError: where it is of another model or optimizer, or damaged.
        """

    @abstractmethod
    def choices(self) -> dict[str, str]:
        """What was chosen for the job and is not in its spec, for people."""

    @abstractmethod
    def numbers(self) -> dict[str, Any]:
        """State that is no tensor, as JSON values; see the protocol."""

    @abstractmethod
    def load_numbers(self, state: Mapping[str, Any]) -> None:
        """Restore ``numbers``."""


def weighted_loss(
    model: nn.Module, micro: MicroBatch, loss: LossFunction, precision: Precision
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a micro-batch times its share of the global batch; ``loss`` and the metrics, detached, likewise."""
    UNDER_WAY.is_padding = micro.weight == 0
    with precision.forward():
        value, metrics = loss(model, micro.batch)
    weighted = {"loss": value, **metrics}
    of_the_step = micro.weight * micro.share
    return value * micro.weight, {name: m.detach().float() * of_the_step for name, m in weighted.items()}


def fill_missing_gradients(parameters: list[nn.Parameter]) -> None:
    """A trainable parameter that no loss has touched has the gradient zero, under every engine."""
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the rate of the next step; a group may have a multiple of it (``lr_multiplier``)."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_multiplier", 1.0)


def choices_of(optimizer: torch.optim.Optimizer) -> dict[str, str]:
    """What runs an optimizer that can be run in several ways."""
    return {"optimizer": optimizer.runs_on()} if isinstance(optimizer, LayerwiseOptimizer) else {}


def report_of(optimizer: torch.optim.Optimizer) -> Mapping[str, Tensor]:
    """What the last step did to each layer, where the optimizer looks at layers."""
    return optimizer.report() if isinstance(optimizer, LayerwiseOptimizer) else {}
