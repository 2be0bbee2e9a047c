"""Training on samples as they are and on the same samples changed to raise the loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import Tensor, nn

from orchestrator.core.protocols import LossFunction
from orchestrator.modulate.loss.attack import attack, input_of, prepare, with_input
from orchestrator.modulate.model.split_norms import auxiliary, split_norms, use_auxiliary
from orchestrator.modulate.substitute import call_with
from orchestrator.spec.methods.loss_modulators import Adversarial


class WithChanged(NamedTuple):
    """A batch and its input as an attack has changed it."""

    batch: Any
    changed: Tensor


class AdversarialLoss:
    """Adversarial learning (as DisAdv in arXiv 2106.00221). Satisfies ``core.protocols.ModelModulator`` and
    ``LossModulator``.

    Every micro-batch x is changed to x' within epsilon, and trained on together with it::

        (1 - weight) L(w; x; BN_main) + weight L(w; x'; BN_auxiliary)

    The attack computes only gradients by x: it leaves no ``.grad``, moves no running statistics and draws no random
    numbers of its own (dropout is off in it). What comes with x' already (``WithChanged``) is not attacked again.

    Args:
        config: see ``spec.methods.modulators.Adversarial``.
    """  # noqa: D205

    def __init__(self, config: Adversarial) -> None:
        self._config = config

    def change(self, model: nn.Module) -> nn.Module:
        """See ``core.protocols.ModelModulator``: a second set of batch-norm statistics and parameters, if any."""
        if self._config.statistics == "separate":
            split_norms(model)
        return model

    def around(self, loss: LossFunction) -> LossFunction:
        """See ``core.protocols.LossModulator``; adds the metric ``adversarial_loss``."""
        config = self._config

        def adversarial(model: nn.Module, batch: Any) -> tuple[Tensor, Mapping[str, Tensor]]:
            clean, changed = (
                batch if isinstance(batch, WithChanged) else (batch, attack_in_place(model, loss, batch, config))
            )
            value, metrics = loss(model, clean)
            with auxiliary(model):
                hostile, _ = loss(model, with_input(clean, input_of(clean, config.input), changed))
            total = (1 - config.weight) * value + config.weight * hostile
            return total, {**metrics, "adversarial_loss": hostile.detach()}

        return adversarial


def attack_in_place(model: nn.Module, loss: LossFunction, batch: Any, config: Adversarial) -> Tensor:
    """``attack`` on a model in training, which is afterwards as before."""
    tensors = {name: p.detach() for name, p in model.named_parameters()}
    tensors |= {name: buffer.clone() for name, buffer in model.named_buffers()}
    with _prepared(model):
        return call_with(tensors, attack, model, loss, batch, config)


@contextmanager
def _prepared(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    prepare(model)
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        use_auxiliary(model, False)
