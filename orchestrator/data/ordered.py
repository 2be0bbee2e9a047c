"""Training data in the order of a file: for each update the chunks that its pushes are of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from orchestrator.core.seeding import seed_everything
from orchestrator.core.values import BatchPlan, DataPosition
from orchestrator.data.fetch import Collate, Fetcher, FetchRequest
from orchestrator.data.micro_batch import LoadedMicroBatch, to_device
from orchestrator.data.randomness import AUGMENTATION
from orchestrator.data.sampler import GlobalOrder, split_micro_batches
from orchestrator.spec.push_order import OrderedPush


class OrderedData:
    """One rank's slice of every push of a step, one push after the other. Satisfies ``core.protocols.TrainData``.

    Chunk k is what an asynchronous worker computes in its push k, and random numbers are keyed by it as there. The last
    micro-batch of every push is marked as such: gradients are exchanged push by push.

    Args:
        dataset: map-style.
        collate: list of samples -> batch; None is torch's ``default_collate``.
        pushes: of an update.
        pushes_per_update: of all updates but the last.
        begin_push: told of each push before its first micro-batch, with its share of the update's samples.
        step: updates taken.
        train_seed: of the training, for the random numbers of the model.
        seed: of the phase's data.
        rank: this rank.
        world_size: number of ranks.
        total_samples: length of the training.
        position: where to start.
        device: where batches go.
        code_folder: folder of the user's files, whose lines are named in errors.
    """

    def __init__(
        self,
        dataset: Any,
        collate: Collate | None,
        *,
        pushes: Callable[[int], Sequence[OrderedPush]],
        pushes_per_update: int,
        begin_push: Callable[[OrderedPush, float], None],
        step: int,
        train_seed: int,
        seed: int,
        rank: int,
        world_size: int,
        total_samples: int,
        position: DataPosition,
        device: torch.device,
        code_folder: Path,
    ) -> None:
        self._order = GlobalOrder(len(dataset), seed)
        self._fetcher = Fetcher(dataset, collate, seed=seed, purpose=AUGMENTATION, code_folder=code_folder)
        self._pushes = pushes
        self._pushes_per_update = pushes_per_update
        self._begin_push = begin_push
        self._step = step
        self._train_seed = train_seed
        self._rank = rank
        self._world_size = world_size
        self._total_samples = total_samples
        self._samples = position.samples
        self._device = device

    @property
    def position(self) -> DataPosition:
        """What the steps so far have taken; which samples that were, the order says."""
        return DataPosition(samples=self._samples)

    def step(self, plan: BatchPlan) -> tuple[int, Iterator[LoadedMicroBatch]]:
        """Samples of the update over all ranks, and this rank's micro-batches of its pushes."""
        chunk_size = plan.global_batch_size // self._pushes_per_update
        starts = [(push, push.chunk * chunk_size) for push in self._pushes(self._step)]
        slices = [(push, start, min(chunk_size, self._total_samples - start)) for push, start in starts]
        return sum(size for *_, size in slices), self._serve(slices, plan)

    def close(self) -> None:
        """Nothing works ahead."""

    def _serve(self, slices: list[tuple[OrderedPush, int, int]], plan: BatchPlan) -> Iterator[LoadedMicroBatch]:
        num_samples = sum(size for *_, size in slices)
        for push, start, size in slices:
            seed_everything(self._train_seed, push.chunk, self._rank)
            self._begin_push(push, size / num_samples)
            micro_batches = split_micro_batches(
                self._order.take(start, size),
                rank=self._rank,
                world_size=self._world_size,
                micro_batch_size=plan.micro_batch_size,
            )
            for index, micro in enumerate(micro_batches):
                batch = self._fetcher.fetch(FetchRequest(micro.ids, start + micro.offset))
                yield LoadedMicroBatch(
                    batch=to_device(batch, self._device),
                    weight=micro.num_samples / size,
                    share=size / num_samples,
                    is_last=index == len(micro_batches) - 1,
                )
        self._samples += num_samples
        self._step += 1
