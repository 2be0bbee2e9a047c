"""Training data by chunks of a step: what a worker reads that is told which chunks to compute."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch

from orchestrator.core.served import RoundRequest
from orchestrator.core.values import BatchPlan, DataPosition
from orchestrator.data.fetch import Collate, Fetcher, FetchRequest
from orchestrator.data.micro_batch import LoadedMicroBatch, to_device
from orchestrator.data.randomness import AUGMENTATION
from orchestrator.data.sampler import GlobalOrder
from orchestrator.spec.batch_arithmetic import share, weighted_share


class ChunkReader:
    """Reads any chunk of any step. With as many equal chunks as ranks, chunk k is what rank k would read.

    Args:
        dataset: map-style.
        collate: list of samples -> batch; None is torch's ``default_collate``.
        seed: of the phase's data.
        device: where batches go.
        code_folder: folder of the user's files, whose lines are named in errors.
    """

    def __init__(
        self, dataset: Any, collate: Collate | None, *, seed: int, device: torch.device, code_folder: Path
    ) -> None:
        self._order = GlobalOrder(len(dataset), seed)
        self._fetcher = Fetcher(dataset, collate, seed=seed, purpose=AUGMENTATION, code_folder=code_folder)
        self._device = device

    def micro_batches(
        self, request: RoundRequest, chunk: int, chunk_weights: Sequence[int]
    ) -> Iterator[LoadedMicroBatch]:
        """The micro-batches of one chunk; none where the step has fewer samples than chunks and this one got nothing.

        Raises:
            RecipeError: by the iterator, where user code fails.
        """
        bounds = [weighted_share(request.num_samples, index, chunk_weights) for index in range(len(chunk_weights))]
        largest = max(stop - start for start, stop in bounds)
        num_micro = 1 if request.micro_batch_size is None else -(-largest // request.micro_batch_size)
        start, stop = bounds[chunk]
        ids = self._order.take(request.position + start, stop - start)
        for index in range(num_micro):
            first, last = share(stop - start, index, num_micro)
            if first == last:
                return
            batch = self._fetcher.fetch(FetchRequest(ids[first:last], request.position + start + first))
            yield LoadedMicroBatch(
                batch=to_device(batch, self._device),
                weight=(last - first) / request.num_counted,
                is_last=last == stop - start,
            )


class RoundData:
    """The steps of a phase as requests for rounds, in place of samples. Satisfies ``core.protocols.TrainData``.

    Args:
        model: which of the models that share the workers, from 0.
        phase: of the training, from 0.
        step: optimizer steps taken.
        total_samples: length of the phase; the last step takes what is left.
        position: where to start.
        draw_factor: samples that are drawn for each one that a step's mean is over.
    """

    def __init__(
        self, *, model: int, phase: int, step: int, total_samples: int, position: DataPosition, draw_factor: Fraction
    ) -> None:
        self._model = model
        self._phase = phase
        self._step = step
        self._total_samples = total_samples
        self._samples = position.samples
        self._draw_factor = draw_factor

    @property
    def position(self) -> DataPosition:
        """Where the next step starts."""
        return DataPosition(samples=self._samples)

    def step(self, plan: BatchPlan) -> tuple[int, Iterator[LoadedMicroBatch]]:
        """Samples that are drawn for the step, and its one request, which the engine has the workers compute.

        Raises:
            ValueError: where all samples of the phase have been taken.
        """
        num_drawn = round(plan.global_batch_size * self._draw_factor)
        num_samples = min(num_drawn, self._total_samples - self._samples)
        if num_samples <= 0:
            raise ValueError(f"All {self._total_samples} samples of the training have been taken.")
        return num_samples, self._serve(plan, num_samples)

    def _serve(self, plan: BatchPlan, num_samples: int) -> Iterator[LoadedMicroBatch]:
        request = RoundRequest(
            model=self._model,
            phase=self._phase,
            step=self._step,
            position=self._samples,
            num_samples=num_samples,
            num_counted=max(1, round(num_samples / self._draw_factor)),
            micro_batch_size=plan.micro_batch_size,
        )
        yield LoadedMicroBatch(batch=request, weight=1.0, is_last=True)
        self._samples += num_samples
        self._step += 1

    def close(self) -> None:
        """Nothing works ahead."""
