"""Training and evaluation data of one rank over a `datasets.IterableDataset`: each rank reads its own shards."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch

from orchestrator.core.errors import DataError
from orchestrator.core.values import BatchPlan, DataPosition
from orchestrator.data.fetch import Collate, collate_samples
from orchestrator.data.library import library_call
from orchestrator.data.micro_batch import LoadedMicroBatch, to_device
from orchestrator.data.randomness import EVALUATION, STREAM_COLLATE, isolated_randomness, keyed_sequence
from orchestrator.data.shards import ShardReader, rows
from orchestrator.spec.batch_arithmetic import num_micro_batches, share


class StreamCollectives(Protocol):
    """The collectives that a stream needs; ``core.collectives.Collectives`` has them."""

    rank: int
    world_size: int

    def all_gather_object(self, value: Any) -> list[Any]:
        """Every rank's value, in rank order."""


def is_stream(dataset: Any) -> bool:
    """Whether the data set is a `datasets.IterableDataset`."""
    if "datasets" not in sys.modules:
        return False
    from datasets import IterableDataset

    return isinstance(dataset, IterableDataset)


def stream_length_error(field: str) -> DataError:
    """The error for a length in epochs, given in ``field`` of the spec, of data that do not tell their length."""
    return DataError(
        f"{field} needs the length of the training data, and a stream has none: "
        "give the length in steps or samples, or set data.source.streaming: false."
    )


class StreamData:
    """One rank's micro-batches over a stream. Satisfies ``core.protocols.TrainData``.

    Every epoch deals the shards anew to the ranks. In each step a rank reads its share of the plan's batch; where its
    shards are used up it contributes zero-weight micro-batches until those of all ranks are, and then the next epoch
    begins. So every sample of an epoch is seen exactly once, and the last steps of an epoch may be smaller than
    planned: weights use the number of samples that all ranks really have.

    Differences from map-style data: another world size gives other samples per step, and a checkpoint resumes only
    with its own world size. Samples are read in this process.

    Args:
        dataset: a `datasets.IterableDataset` that is not shuffled; its shards must divide by the ranks.
        collate: list of samples -> batch; None is torch's ``default_collate``.
        seed: the job's seed.
        collectives: used in ``step``, by all ranks together.
        total_samples: length of the training over all epochs and ranks; the last step takes what is left.
        position: where to start.
        device: where batches go.
        block_size: samples that each rank shuffles among each other, and so holds in memory.
        code_folder: folder of the user's files, whose lines are named in errors.

    Raises:
        DataError: where the shards do not divide by the ranks, or the position is of another world size or source.
    """

    def __init__(
        self,
        dataset: Any,
        *,
        collate: Collate | None,
        seed: int,
        collectives: StreamCollectives,
        total_samples: int,
        position: DataPosition,
        device: torch.device,
        block_size: int = 1024,
        code_folder: Path | None = None,
    ) -> None:
        _check_shards(dataset.num_shards, collectives.world_size)
        _check_position(position, collectives.world_size)
        self._dataset = dataset
        self._collate = collate
        self._seed = seed
        self._collectives = collectives
        self._total_samples = total_samples
        self._position = position
        self._device = device
        self._code_folder = code_folder
        self._padding: Any = None
        self._reader = ShardReader(
            dataset,
            seed=seed,
            rank=collectives.rank,
            world_size=collectives.world_size,
            block_size=block_size,
        )
        self._reader_is_at_position = False

    @property
    def position(self) -> DataPosition:
        """Where the next step starts; moves when a step's last micro-batch has been taken. No collective."""
        return self._position

    def step(self, plan: BatchPlan) -> tuple[int, Iterator[LoadedMicroBatch]]:
        """Samples of the step over all ranks, and this rank's micro-batches, equally many on every rank.

        Called by all ranks together.

        Raises:
            ValueError: where all samples of the training have been taken.
            DataError: where the stream holds no sample at all, or cannot be read.
            RecipeError: by the iterator, where ``collate`` fails.
        """
        planned = min(plan.global_batch_size, self._total_samples - self._position.samples)
        if planned <= 0:
            raise ValueError(f"All {self._total_samples} samples of the training have been taken.")
        if not self._reader_is_at_position:
            states = self._position.stream_states
            self._reader.restore(states[self._collectives.rank] if states else None)
        self._reader_is_at_position = False
        samples, num_samples, states = self._read(planned)
        after = DataPosition(samples=self._position.samples + num_samples, stream_states=states)
        num_micro = num_micro_batches(planned, self._collectives.world_size, plan.micro_batch_size)
        return num_samples, self._serve(samples, num_samples, num_micro, after)

    def close(self) -> None:
        """Nothing to end: samples are read in this process."""

    def _read(self, planned: int) -> tuple[list[Any], int, tuple[dict[str, Any], ...]]:
        """This rank's samples, how many all ranks have, and where every rank's reader then stands."""
        rank, world_size = self._collectives.rank, self._collectives.world_size
        takers = list(range(world_size))
        is_new_epoch = False
        while True:
            start, stop = share(planned, takers.index(rank), world_size) if rank in takers else (0, 0)
            samples = self._reader.take(stop - start)
            # States travel with the counts, so that a position is complete without a collective of its own.
            gathered = self._collectives.all_gather_object(
                (len(samples), self._reader.has_more(), self._reader.state())
            )
            num_samples = sum(count for count, _, _ in gathered)
            if num_samples:
                return samples, num_samples, tuple(state for _, _, state in gathered)
            # In a step smaller than the world those that still have samples may have had no share of it.
            takers = [other for other, (_, has_more, _) in enumerate(gathered) if has_more]
            if not takers:
                if is_new_epoch:
                    raise DataError("The training stream holds no samples.")
                self._reader.start_next_epoch()
                takers, is_new_epoch = list(range(world_size)), True

    def _serve(
        self, samples: list[Any], num_samples: int, num_micro: int, after: DataPosition
    ) -> Iterator[LoadedMicroBatch]:
        for index in range(num_micro):
            start, stop = share(len(samples), index, num_micro)
            of_micro = samples[start:stop] or [self._padding_sample()]
            sequence = keyed_sequence(self._seed, STREAM_COLLATE, self._position.samples, self._collectives.rank, index)
            with isolated_randomness(sequence):
                batch = collate_samples(of_micro, self._collate, self._code_folder)
            yield LoadedMicroBatch(
                batch=to_device(batch, self._device),
                weight=(stop - start) / num_samples,
                is_last=index == num_micro - 1,
            )
        self._position = after
        self._reader_is_at_position = True

    def _padding_sample(self) -> Any:
        """The first sample of the whole stream: a rank may need one before it has read any."""
        if self._padding is None:
            with library_call("Reading the training stream"):
                self._padding = next(rows(self._dataset, num_rows=1))[0]
        return self._padding


def stream_evaluation(
    dataset: Any,
    collate: Collate | None,
    *,
    rank: int,
    world_size: int,
    micro_batch_size: int,
    seed: int,
    code_folder: Path | None,
) -> Iterator[tuple[Any, int]]:
    """One rank's batches of an evaluation stream and their numbers of samples; each sample once over all ranks.

    Raises:
        DataError: where reading fails.
        RecipeError: where ``collate`` fails.
    """
    from datasets.distributed import split_dataset_by_node

    own = split_dataset_by_node(dataset, rank=rank, world_size=world_size)
    blocks = rows(own, num_rows=micro_batch_size)
    index = 0
    while True:
        with isolated_randomness(keyed_sequence(seed, EVALUATION, rank, index)):
            with library_call("Reading the evaluation stream"):
                samples = next(blocks, None)
            if samples is None:
                return
            batch = collate_samples(samples, collate, code_folder)
        yield batch, len(samples)
        index += 1


def _check_shards(num_shards: int, world_size: int) -> None:
    if num_shards % world_size == 0:
        return
    legal = ", ".join(str(count) for count in range(1, num_shards + 1) if num_shards % count == 0)
    raise DataError(
        f"The training stream has {num_shards} shards, which do not divide by resources.workers: {world_size}; "
        f"legal numbers of workers: {legal}."
    )


def _check_position(position: DataPosition, world_size: int) -> None:
    saved = len(position.stream_states)
    if position.samples and not saved:
        raise DataError("The checkpoint was written on data that were not streamed; set data.source.streaming: false.")
    if saved not in (0, world_size):
        raise DataError(
            f"The checkpoint holds the positions of {saved} workers in their shards of the stream, so it resumes "
            f"with resources.workers: {saved} only, not {world_size}; without streaming any number resumes."
        )
