"""One of the models that a worker computes gradients for: its weights, its data, its loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from orchestrator.core.coupling import Coupling, coupled
from orchestrator.core.flat_shards import FlatShards
from orchestrator.core.protocols import MicroBatch
from orchestrator.core.seeding import seed_everything
from orchestrator.core.served import ChunkReport, Handle, Publication, RoundRequest
from orchestrator.data.chunks import ChunkReader
from orchestrator.data.randomness import phase_seed
from orchestrator.engines.base import weighted_loss
from orchestrator.engines.module_squares import GroupSquaresOfModules
from orchestrator.engines.precision import Precision
from orchestrator.spec.job import JobSpec
from orchestrator.spec.methods.gradient_modulators import MeasuresModules
from orchestrator.spec.phases import phases_of
from orchestrator.train.parameter_modules import parameter_modules
from orchestrator.train.recipe import training_loss
from orchestrator.train.sources import Source, build_model, read_source

_APART = Coupling(refusal="this exchange has each part of a batch computed by itself. Legal: exchange: all_reduce.")
OWNER_CHUNK = 0
"""The chunk whose forward moves the model's buffers (running statistics), as rank 0's do under all-reduce."""


class WorkerModel:
    """Computes chunks of one model's steps.

    Args:
        spec: the model's job, all phases.
        code: folder of the user's files.
        num_shards: processes that own the weights.
        device: that it computes on.
        fetch: gets what shards have published.
        begin_micro_batch: called before each micro-batch; may raise to leave the chunk.
    """

    def __init__(
        self,
        spec: JobSpec,
        code: Path,
        *,
        num_shards: int,
        device: torch.device,
        fetch: Callable[[Handle], Any],
        begin_micro_batch: Callable[[MicroBatch], None],
    ) -> None:
        self._phases = phases_of(spec)
        self._code = code
        self._device = device
        self._fetch = fetch
        self._begin_micro_batch = begin_micro_batch
        self._seed = spec.train.seed
        source = read_source(self._phases[0], code)
        self._model = build_model(self._phases[0], source.recipe, code).to(device).train()
        self._use(source, phase=0)  # the recipe that built the model: it may have kept something of it
        shards = FlatShards(self._model, num_shards)
        self._weights = shards.weights
        self.gradients = shards.point_gradients()
        """One flat array for each shard; chunks add to them."""
        self._precision = Precision(spec.train.precision, device)
        self._squares = _module_squares(self._phases[0], source.recipe, self._model, code)
        self._version = -1
        self._base_buffers: dict[str, Tensor] = {}

    def prepare(self, request: RoundRequest, weights: Publication) -> None:
        """Take over a version of the weights and turn to the phase of a step; the gradients are zeros then."""
        self._load(weights)
        if request.phase != self._phase:
            self._use(read_source(self._phases[request.phase], self._code), request.phase)
        for flat in self.gradients:
            flat.zero_()

    def compute(
        self, request: RoundRequest, chunk: int, coefficient: float, chunk_weights: tuple[int, ...]
    ) -> ChunkReport:
        """Add coefficient x one chunk's gradient to the gradients.

        Raises:
            RecipeError: where user code fails.
        """
        # As the rank of the same number would draw under all-reduce, whichever worker computes the chunk.
        seed_everything(self._seed, request.step, chunk)
        weight = 0.0
        metrics: dict[str, float] = {}
        squares = self._squares if request.measures_modules else None
        if squares is not None:
            squares.begin()
        try:
            for micro in self._reader.micro_batches(request, chunk, chunk_weights):
                self._begin_micro_batch(micro)
                with coupled(_APART):
                    value, weighted = weighted_loss(self._model, micro, self._loss, self._precision)
                # The backward is linear: a coefficient on the loss is one on the chunk's gradient.
                (value * coefficient).backward()
                if squares is not None:
                    squares.end_group(scale=coefficient, share=micro.weight)
                weight += micro.weight
                for name, metric in weighted.items():
                    metrics[name] = metrics.get(name, 0.0) + float(metric)
        finally:
            changed = self._restore_buffers()
            if squares is not None:
                squares.end()
        return ChunkReport(
            weight=weight,
            metrics=metrics,
            buffers=changed if chunk == OWNER_CHUNK else {},
            squares=None if squares is None else squares.take(),
        )

    def _use(self, source: Source, phase: int) -> None:
        self._loss = training_loss(self._phases[phase], source.recipe, self._code)
        self._reader = ChunkReader(
            source.train_set,
            getattr(source.recipe, "collate", None),
            seed=phase_seed(self._seed, phase),
            device=self._device,
            code_folder=self._code,
        )
        self._phase = phase

    def _load(self, weights: Publication) -> None:
        if weights.version == self._version:
            return
        if self._version < 0:
            _copy_into(self._model, self._fetch(weights.unchanging))
        for flat, handle in zip(self._weights, weights.flats, strict=True):
            flat.copy_(torch.from_numpy(self._fetch(handle)))
        _copy_into(self._model, weights.buffers)
        self._base_buffers = {name: buffer.clone() for name, buffer in self._model.named_buffers()}
        self._version = weights.version

    def _restore_buffers(self) -> dict[str, NDArray[Any]]:
        """Put the buffers back to those of the version, so that chunks do not see each other; those that differed."""
        changed = {}
        for name, buffer in self._model.named_buffers():
            base = self._base_buffers[name]
            if not torch.equal(buffer, base):
                changed[name] = buffer.cpu().numpy().copy()
                buffer.copy_(base)
        return changed


def _module_squares(spec: JobSpec, recipe: Any, model: nn.Module, code: Path) -> GroupSquaresOfModules | None:
    """What measures gradients module by module, where a modulator asks for it."""
    for config in spec.modulators:
        if isinstance(config, MeasuresModules):
            return GroupSquaresOfModules(model, parameter_modules(config, recipe, model, code).module_of)
    return None


@torch.no_grad()
def _copy_into(model: nn.Module, arrays: Mapping[str, NDArray[np.generic]]) -> None:
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name, array in arrays.items():
        tensors[name].copy_(torch.from_numpy(array))
