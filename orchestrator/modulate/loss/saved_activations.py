"""Activations that wait for the backward in 8 bits per number: a quarter of the memory for a little noise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef

from orchestrator.core.batches import tensors_of
from orchestrator.core.protocols import LossFunction
from orchestrator.spec.methods.loss_modulators import SavedActivations

LEVELS = 255
LEAST_ELEMENTS_PER_SAMPLE = 64
"""Tensors with less are kept: scores of a few classes and what softmax makes of them, where a small error of a
logarithm is a large one of the gradient."""


@dataclass(frozen=True, slots=True)
class EightBits:
    """The numbers of a tensor in groups, each with its zero and scale."""

    codes: Tensor
    """[groups, numbers of a group], uint8."""
    zeros: Tensor
    """[groups, 1], the least number of each."""
    scales: Tensor
    """[groups, 1], the difference of two neighboring codes."""

    @property
    def num_bytes(self) -> int:
        """Memory."""
        return self.codes.nbytes + self.zeros.nbytes + self.scales.nbytes

    def numbers(self, like: torch.Size, dtype: torch.dtype) -> Tensor:
        """The tensor again, each number within half a scale of what it was; within a scale where rounding is random."""
        flat = torch.addcmul(self.zeros, self.codes.to(self.scales.dtype), self.scales).view(-1)
        return flat[: like.numel()].view(like).to(dtype)


def quantize(tensor: Tensor, group: int, generator: torch.Generator | None) -> EightBits:
    """Numbers to the 256 levels between the least and the largest of their group.

    Args:
        tensor: of floating-point numbers, all finite; in its order every ``group`` of them share a scale.
        group: numbers.
        generator: on the tensor's device; rounds up as often as brings the mean back. None rounds to the nearest.
    """
    flat = tensor.detach().reshape(-1).float()
    missing = -flat.numel() % group
    if missing:
        # Repeats of a member do not widen the last group's range.
        flat = torch.cat([flat, flat[-1:].expand(missing)])
    rows = flat.view(-1, group)
    zeros, largest = rows.aminmax(dim=1, keepdim=True)
    scales = (largest - zeros) / LEVELS
    levels = (rows - zeros) / torch.where(scales > 0, scales, 1.0)
    if generator is None:
        levels.round_()
    else:
        levels.add_(torch.rand(levels.shape, generator=generator, device=levels.device)).floor_()
    return EightBits(levels.clamp_(0, LEVELS).to(torch.uint8), zeros, scales)


class SavedInEightBits:
    """8-bit saved activations (after Mesa, arXiv 2111.11124). Satisfies ``core.protocols.LossModulator``.

    The forward is exact. What autograd saves in it for the backward is kept as::

        code = round((x - min) / s),   s = (max - min) / 255      over each group of numbers
        x'   = min + code s

    and the backward computes with x'. Kept as they are: weights and buffers, the batch (which is alive anyway),
    integers, booleans, small tensors, and tensors of few elements per sample. A tensor that several operations have
    saved is kept once.

    Args:
        config: ``group`` >= 1 numbers; ``min_elements`` >= 1; ``stochastic`` rounding.

    Differences from the paper: scales are of groups of consecutive numbers and of each tensor, not running averages for
    each layer and head; what is saved is quantized as autograd sees it, without own versions of the layers.
    """

    def __init__(self, config: SavedActivations) -> None:
        self._config = config

    def around(self, loss: LossFunction) -> LossFunction:
        """See ``core.protocols.LossModulator``."""

        def with_saved(model: nn.Module, batch: Any) -> tuple[Tensor, Mapping[str, Tensor]]:
            shelf = Shelf(self._config, [*model.parameters(), *model.buffers()], tensors_of(batch))
            with saved_tensors_hooks(shelf.pack, unpack):
                return loss(model, batch)

        return with_saved


@dataclass(frozen=True, slots=True)
class Packed:
    """A saved tensor."""

    kept: EightBits
    shape: torch.Size
    dtype: torch.dtype


def unpack(saved: Packed | Tensor) -> Tensor:
    """What the backward computes with."""
    return saved.kept.numbers(saved.shape, saved.dtype) if isinstance(saved, Packed) else saved


class Shelf:
    """What one forward saves.

    Args:
        config: of the modulator.
        state: the model's parameters and buffers.
        inputs: tensors of the batch.
    """

    def __init__(self, config: SavedActivations, state: list[Tensor], inputs: Iterable[Tensor]) -> None:
        self._config = config
        self._lasting = {tensor.untyped_storage()._cdata for tensor in [*state, *inputs]}
        # Autocast's copies of weights have memory of their own, so that only their shape tells what they are.
        matrices = [tuple(tensor.shape) for tensor in state if tensor.dim() > 1]
        self._weights = {*matrices, *(shape[::-1] for shape in matrices)}
        self._packed: dict[tuple[Any, ...], tuple[StorageWeakRef, EightBits]] = {}
        self._generator: torch.Generator | None = None

    def pack(self, tensor: Tensor) -> Packed | Tensor:
        """What is kept of a tensor."""
        if not self._is_activation(tensor):
            return tensor
        storage = StorageWeakRef(tensor.untyped_storage())
        place = (tensor.storage_offset(), tensor.numel() if tensor.is_contiguous() else (tensor.shape, tensor.stride()))
        key = (storage.cdata, *place, tensor.dtype, tensor._version)
        known = self._packed.get(key)
        if known is None or known[0].expired():
            known = self._packed[key] = storage, quantize(tensor, self._config.group, self._noise(tensor.device))
        return Packed(known[1], tensor.shape, tensor.dtype)

    def _is_activation(self, tensor: Tensor) -> bool:
        if not tensor.is_floating_point() or tensor.numel() < self._config.min_elements:
            return False
        if tensor.dim() == 0 or tensor.numel() < LEAST_ELEMENTS_PER_SAMPLE * len(tensor):
            return False
        storage = tensor.untyped_storage()
        is_expanded = storage.nbytes() < tensor.numel() * tensor.element_size()
        is_cast_weight = tensor.dtype != torch.float32 and tuple(tensor.shape) in self._weights
        return storage._cdata not in self._lasting and not is_expanded and not is_cast_weight

    def _noise(self, device: torch.device) -> torch.Generator | None:
        """A generator that goes by where torch's own stands, and leaves that where it is: a resumed job repeats it."""
        if self._config.stochastic and self._generator is None:
            state = torch.get_rng_state()
            seed = int(torch.randint(2**62, ()))
            torch.set_rng_state(state)
            self._generator = torch.Generator(device).manual_seed(seed)
        return self._generator
