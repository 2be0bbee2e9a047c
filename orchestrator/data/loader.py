"""Training and evaluation data of one rank over a map-style data set; order in ``sampler``, reading in ``fetch``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from orchestrator.core.errors import DataError
from orchestrator.core.values import BatchPlan, DataPosition
from orchestrator.data.fetch import Collate, Fetcher, FetchRequest
from orchestrator.data.micro_batch import LoadedMicroBatch, to_device
from orchestrator.data.prefetch import Prefetcher
from orchestrator.data.randomness import AUGMENTATION, EVALUATION
from orchestrator.data.sampler import GlobalOrder, MicroBatchIds, SampleIds, split_micro_batches
from orchestrator.data.stream import is_stream, stream_evaluation
from orchestrator.spec.batch_arithmetic import num_micro_batches, share


class MapStyleData:
    """One rank's micro-batches over a map-style data set. Satisfies ``core.protocols.TrainData``.

    Loader processes prepare micro-batches ahead, across step boundaries, as long as the plan keeps its sizes; with
    another plan what they prepared is thrown away, so samples never depend on prefetching.

    Args:
        dataset: has ``__len__`` and ``__getitem__``; with loader processes it must be picklable.
        collate: list of samples -> batch; None is torch's ``default_collate``.
        seed: the job's seed.
        rank: this rank.
        world_size: number of ranks.
        total_samples: length of the training over all epochs and ranks; the last step takes what is left.
        position: where to start; may come from a run with another world size.
        device: where batches go.
        loader_workers: loader processes of this rank; 0 reads in this process.
        prefetch: micro-batches that each loader process prepares ahead, at least 1.
        code_folder: folder of the user's files, whose lines are named in errors.

    Raises:
        DataError: where the position is that of a stream.
    """

    def __init__(
        self,
        dataset: Any,
        *,
        collate: Collate | None,
        seed: int,
        rank: int,
        world_size: int,
        total_samples: int,
        position: DataPosition,
        device: torch.device,
        loader_workers: int = 0,
        prefetch: int = 2,
        code_folder: Path | None = None,
    ) -> None:
        if position.stream_states:
            raise DataError("The checkpoint was written while training on a stream; set data.source.streaming: true.")
        self._order = GlobalOrder(len(dataset), seed)
        self._fetcher = Fetcher(dataset, collate, seed=seed, purpose=AUGMENTATION, code_folder=code_folder)
        self._rank = rank
        self._world_size = world_size
        self._total_samples = total_samples
        self._samples = position.samples
        self._device = device
        self._ahead: Prefetcher | None = None
        if loader_workers:
            self._ahead = Prefetcher(
                self._fetcher,
                self._requests_from,
                num_workers=loader_workers,
                num_ahead=prefetch,
                pin_memory=device.type == "cuda",
            )

    @property
    def position(self) -> DataPosition:
        """Where the next step starts; moves when a step's last micro-batch has been taken."""
        return DataPosition(samples=self._samples)

    def step(self, plan: BatchPlan) -> tuple[int, Iterator[LoadedMicroBatch]]:
        """Samples of the step over all ranks, and this rank's micro-batches, equally many on every rank.

        Raises:
            ValueError: where all samples of the training have been taken.
            RecipeError: by the iterator, where user code fails.
            DataError: by the iterator, where a loader process dies.
        """
        num_samples = self._step_size(self._samples, plan)
        if num_samples <= 0:
            raise ValueError(f"All {self._total_samples} samples of the training have been taken.")
        return num_samples, self._serve(plan, num_samples)

    def close(self) -> None:
        """End the loader processes."""
        if self._ahead is not None:
            self._ahead.close()

    def _serve(self, plan: BatchPlan, num_samples: int) -> Iterator[LoadedMicroBatch]:
        position = self._samples
        micro_batches = self._micro_batches(position, num_samples, plan)
        batches: Iterator[Any]
        if self._ahead is None:
            batches = (self._fetcher.fetch(_request(position, micro)) for micro in micro_batches)
        else:
            batches = self._ahead.take(position, num_samples, plan, num_batches=len(micro_batches))
        for index, (micro, batch) in enumerate(zip(micro_batches, batches, strict=True)):
            yield LoadedMicroBatch(
                batch=to_device(batch, self._device),
                weight=micro.num_samples / num_samples,
                is_last=index == len(micro_batches) - 1,
            )
        self._samples = position + num_samples

    def _step_size(self, position: int, plan: BatchPlan) -> int:
        return min(plan.global_batch_size, self._total_samples - position)

    def _micro_batches(self, position: int, num_samples: int, plan: BatchPlan) -> list[MicroBatchIds]:
        return split_micro_batches(
            self._order.take(position, num_samples),
            rank=self._rank,
            world_size=self._world_size,
            micro_batch_size=plan.micro_batch_size,
        )

    def _requests_from(self, position: int, plan: BatchPlan) -> Iterator[FetchRequest]:
        """Requests of all steps to the end of the training, were the plan to stay as it is."""
        while (num_samples := self._step_size(position, plan)) > 0:
            for micro in self._micro_batches(position, num_samples, plan):
                yield _request(position, micro)
            position += num_samples


def _request(position: int, micro: MicroBatchIds) -> FetchRequest:
    return FetchRequest(ids=micro.ids, position=position + micro.offset)


def evaluation_micro_batches(
    dataset: Any,
    collate: Collate | None,
    *,
    rank: int,
    world_size: int,
    micro_batch_size: int,
    device: torch.device,
    seed: int = 0,
    code_folder: Path | None = None,
) -> Iterator[tuple[Any, int]]:
    """One rank's batches of an evaluation and their numbers of samples; each sample once over all ranks.

    Of a map-style data set every rank has equally many batches, for an engine may divide the model among them: one with
    too few samples gets padding at the end, a real sample that counts 0. Of a stream ranks may differ, and a rank
    without samples yields nothing.

    Args:
        dataset: map-style, read in contiguous slices, or a stream, read by shards.
        collate: list of samples -> batch; None is torch's ``default_collate``.
        rank: this rank.
        world_size: number of ranks.
        micro_batch_size: most samples of a batch.
        device: where batches go.
        seed: seed of the data code's random numbers, the same in every evaluation.
        code_folder: folder of the user's files, whose lines are named in errors.

    Raises:
        RecipeError: where user code fails.
    """
    batches: Iterator[tuple[Any, int]]
    if is_stream(dataset):
        batches = stream_evaluation(
            dataset,
            collate,
            rank=rank,
            world_size=world_size,
            micro_batch_size=micro_batch_size,
            seed=seed,
            code_folder=code_folder,
        )
    else:
        fetcher = Fetcher(dataset, collate, seed=seed, purpose=EVALUATION, code_folder=code_folder)
        start, stop = share(len(dataset), rank, world_size)
        num_batches = num_micro_batches(len(dataset), world_size, micro_batch_size)
        firsts = range(start, start + num_batches * micro_batch_size, micro_batch_size)
        slices = (np.arange(first, min(first + micro_batch_size, stop)) for first in firsts)
        batches = ((fetcher.fetch(_evaluation_request(ids)), len(ids)) for ids in slices)
    for batch, num_samples in batches:
        yield to_device(batch, device), num_samples


def _evaluation_request(ids: SampleIds) -> FetchRequest:
    if len(ids) == 0:
        ids = np.zeros(1, dtype=np.int64)  # padding: any sample will do
    return FetchRequest(ids=ids, position=int(ids[0]))
