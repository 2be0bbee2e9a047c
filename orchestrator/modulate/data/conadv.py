"""Concurrent adversarial learning: samples are attacked some steps before they are trained on."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from orchestrator.core.collectives import Collectives
from orchestrator.core.errors import RecipeError
from orchestrator.core.parts import DataParts
from orchestrator.core.protocols import TrainData
from orchestrator.core.seeding import Draws
from orchestrator.core.staleness import Staleness
from orchestrator.modulate.data.look_ahead import LookAhead
from orchestrator.modulate.loss.adversarial import AdversarialLoss, WithChanged
from orchestrator.modulate.loss.attack import attack, prepare
from orchestrator.modulate.substitute import call_with
from orchestrator.spec.methods.loss_modulators import Conadv

_KEY = "attacked_at_"
"""Begins the names of older weights among the optimizer's state, where checkpoints find them."""


class ConcurrentAdversarialLoss(AdversarialLoss):
    """Concurrent adversarial learning (ConAdv, arXiv 2106.00221).

    Satisfies ``core.protocols.DataModulator`` beside what its base satisfies. Step t trains on x_t and x'_t, and beside
    that makes x'_{t + staleness} with the weights before step t::

        x'_j = attack(w_{j - staleness}; x_j)        in the first steps of a phase, with the weights at its start

    The attack runs on a copy of the model in a thread, on a GPU in a stream of its own. The weights of the last
    ``staleness`` steps are kept among the optimizer's state: a resumed job makes the same x' again.

    Args:
        config: see ``spec.methods.modulators.Conadv``.
    """

    def __init__(self, config: Conadv) -> None:
        super().__init__(config)
        self._attack = config
        self._parameters: list[nn.Parameter] = []
        self._kept: list[list[Tensor]] = []
        self._data: LookAhead | None = None

    def attach(self, optimizer: torch.optim.Optimizer, staleness: Staleness, collectives: Collectives | None) -> None:
        """Keep older weights in the optimizer's state from its first step on: many make theirs where it is empty."""
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._kept = [[p.detach().clone() for p in self._parameters] for _ in range(self._attack.staleness)]
        optimizer.register_step_post_hook(self._after_step)

    def over(self, data: TrainData, parts: DataParts) -> TrainData:
        """See ``core.protocols.DataModulator``."""
        attacker = _Attacker(self._attack, parts)
        names = {id(p): name for name, p in parts.model.named_parameters()}
        ours = [names[id(p)] for p in self._parameters]

        def make(batches: Sequence[Any], version: int) -> list[WithChanged]:
            return attacker.attack_all(batches, dict(zip(ours, self._slot(version), strict=True)))

        def keep(version: int) -> None:
            torch._foreach_copy_(self._slot(version), [p.detach() for p in self._parameters])
            attacker.note_state()

        self._data = LookAhead(
            data,
            make,
            distance=self._attack.staleness,
            first_step=parts.first_step,
            step=parts.step,
            total_samples=parts.total_samples,
            concurrent=self._attack.concurrent,
            keep=keep,
        )
        return self._data

    def report(self) -> dict[str, Tensor]:
        """How old the weights were that the step's samples were changed with, in steps."""
        assert self._data is not None  # steps are taken on its data
        return {"adversarial_staleness": torch.tensor(float(self._data.staleness))}

    def _slot(self, version: int) -> list[Tensor]:
        return self._kept[version % self._attack.staleness]

    def _after_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        for index, parameter in enumerate(self._parameters):
            for slot, kept in enumerate(self._kept):
                optimizer.state[parameter][f"{_KEY}{slot}"] = kept[index]


class _Attacker:
    """A copy of the model that is attacked while the model itself is trained."""

    def __init__(self, config: Conadv, parts: DataParts) -> None:
        self._config = config
        self._loss = parts.loss
        self._forward = parts.forward
        self._device = parts.device
        self._live = parts.model
        self._model = copy.deepcopy(parts.model).requires_grad_(False)
        prepare(self._model)
        if any(isinstance(module, nn.SyncBatchNorm) for module in self._model.modules()):
            raise RecipeError(
                "modulators: conadv computes beside the step, where SyncBatchNorm would wait for other workers. Legal: "
                "ordinary batch norm, or disadv."
            )
        self._buffers: dict[str, Tensor] = {}
        self._is_first = True
        self._stream: torch.cuda.Stream | None = None
        if self._device.type == "cuda":
            self._stream, self._main = torch.cuda.Stream(self._device), torch.cuda.current_stream(self._device)

    def note_state(self) -> None:
        """Take over the model's buffers, and let attacks begin only when the device has come to here."""
        self._buffers = {name: buffer.clone() for name, buffer in self._live.named_buffers()}
        if self._stream is not None:
            self._noted = self._main.record_event()

    def attack_all(self, batches: Sequence[Any], weights: Mapping[str, Tensor]) -> list[WithChanged]:
        """The batches, each with its changed input.

        Raises:
            RecipeError: where the loss draws random numbers: beside the step that would be a race.
        """
        draws = Draws(self._device) if self._is_first else None
        if self._stream is None:
            attacked = [self._attack(batch, weights) for batch in batches]
        else:
            with torch.cuda.stream(self._stream):
                self._stream.wait_event(self._noted)
                attacked = [self._attack(batch, weights) for batch in batches]
            self._stream.synchronize()
            for _, changed in attacked:
                changed.record_stream(self._main)
        if draws is not None and draws.have_moved():
            raise RecipeError(
                "modulators: conadv attacks beside the step, and the recipe's loss draws random numbers even where the "
                "model's layers are in evaluation mode. Legal: a loss that draws none then, or disadv."
            )
        self._is_first = False
        return attacked

    def _attack(self, batch: Any, weights: Mapping[str, Tensor]) -> WithChanged:
        with _apart(self._forward):
            changed = call_with({**weights, **self._buffers}, attack, self._model, self._loss, batch, self._config)
        return WithChanged(batch, changed)


@contextmanager
def _apart(forward: Callable[[], AbstractContextManager[Any]]) -> Iterator[None]:
    """The context of a forward that leaves those of other threads alone.

    Autocast's cache of cast weights is one for all threads, and a thread that leaves its outermost block empties it:
    how often the step beside it casts a weight, and so how its gradients are rounded, would depend on the moment.
    """
    is_cached = torch.is_autocast_cache_enabled()
    torch.autocast_increment_nesting()  # so that no block in here is the outermost
    try:
        with forward():
            torch.set_autocast_cache_enabled(False)
            yield
    finally:
        torch.autocast_decrement_nesting()
        torch.set_autocast_cache_enabled(is_cached)
