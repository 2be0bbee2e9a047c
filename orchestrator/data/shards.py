"""Reading one rank's shards of a stream, shuffled, from any place again. Knows no steps and no other ranks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from orchestrator.data.library import library_call
from orchestrator.data.randomness import BLOCK_ORDER, SHARD_ORDER, STREAM_READ, isolated_randomness, keyed_sequence


def rows(dataset: Any, num_rows: int) -> Iterator[list[Any]]:
    """Blocks of ``num_rows`` samples of a `datasets.IterableDataset`, the last one smaller; a sample is a dict.

    Blocks are read as columns, which is two to three times as fast as sample by sample.
    """
    for columns in dataset.iter(batch_size=num_rows):
        names = list(columns)
        yield [dict(zip(names, values, strict=True)) for values in zip(*columns.values(), strict=True)]


class ShardReader:
    """One rank's samples of an epoch: its shards in a shuffled order, the samples shuffled within blocks.

    The library's own shuffle buffer is not used: its content cannot be restored. A block is read again from the
    stream's state at its beginning, so ``state`` is small and resuming is exact.

    Args:
        dataset: the whole `datasets.IterableDataset`.
        seed: the job's seed.
        rank: this rank.
        world_size: number of ranks; divides the number of shards.
        block_size: samples of a block, at least 1.
    """

    def __init__(self, dataset: Any, *, seed: int, rank: int, world_size: int, block_size: int) -> None:
        self._dataset = dataset
        self._seed = seed
        self._rank = rank
        self._world_size = world_size
        self._block_size = block_size
        self._shards: Any = None
        self._samples: list[Any] = []
        self._offset = 0
        self.restore(None)

    def take(self, count: int) -> list[Any]:
        """The next samples, fewer than ``count`` only where the epoch ends; never of the next epoch.

        Raises:
            DataError: where reading fails.
        """
        samples: list[Any] = []
        while len(samples) < count and self.has_more():
            piece = self._samples[self._offset : self._offset + count - len(samples)]
            samples += piece
            self._offset += len(piece)
            if self._offset == len(self._samples):
                self._samples, self._offset = [], 0
                self._block += 1
                self._before_block = self._shards.state_dict()
        return samples

    def has_more(self) -> bool:
        """Whether the epoch has a sample left; reads the next block where the last one is used up.

        Raises:
            DataError: where reading fails.
        """
        if not self._samples:
            # Seeded, and not disturbing the training, in case reading draws random numbers.
            with library_call("Reading the training stream"), isolated_randomness(self._block_sequence(STREAM_READ)):
                block = next(self._blocks, [])
            generator = np.random.Generator(np.random.PCG64(self._block_sequence(BLOCK_ORDER)))
            self._samples = [block[index] for index in generator.permutation(len(block))]
        return bool(self._samples)

    def start_next_epoch(self) -> None:
        """Begin the next epoch; all ranks together, since it deals the shards anew."""
        self._open(self._epoch + 1)

    def state(self) -> dict[str, Any]:
        """Where the next sample is: JSON values."""
        return {"epoch": self._epoch, "block": self._block, "offset": self._offset, "stream": self._before_block}

    def restore(self, state: Mapping[str, Any] | None) -> None:
        """Go where ``state`` was taken; None is the very beginning."""
        if state is None:
            self._open(0)
        else:
            self._open(state["epoch"], state["block"], state["offset"], state["stream"])

    def _open(self, epoch: int, block: int = 0, offset: int = 0, stream: Mapping[str, Any] | None = None) -> None:
        from datasets.distributed import split_dataset_by_node

        self._epoch, self._block, self._offset, self._before_block = epoch, block, offset, stream
        self._samples = []
        self._shards = split_dataset_by_node(self._dataset, rank=self._rank, world_size=self._world_size)
        # The library shuffles the shards by the epoch's number alone, so the seed has to enter there. Odd, since it
        # leaves epoch 0 unshuffled; 31 bits, since it subtracts the number from a seed that must stay positive.
        self._shards.set_epoch(int(keyed_sequence(self._seed, SHARD_ORDER, epoch).generate_state(1)[0]) >> 1 | 1)
        if stream is not None:
            self._shards.load_state_dict(stream)
        self._blocks = rows(self._shards, self._block_size)

    def _block_sequence(self, purpose: int) -> np.random.SeedSequence:
        return keyed_sequence(self._seed, purpose, self._epoch, self._rank, self._block)
