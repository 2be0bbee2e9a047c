"""Loader processes that prepare micro-batches ahead of the steps. Knows requests and batches, not their order."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from orchestrator.core.errors import DataError, RecipeError
from orchestrator.core.values import BatchPlan
from orchestrator.data.fetch import Fetcher, FetchRequest, unwrap

RequestsFrom = Callable[[int, BatchPlan], Iterator[FetchRequest]]
"""(position, plan) -> requests from there to the end of the training, were the plan to stay as it is."""


class Prefetcher:
    """Loader processes that work on the coming steps' requests, assuming that the plan keeps its sizes.

    They are started by ``spawn``: ``fork`` is unsafe beside the threads of gloo, NCCL and Ray, and under ``forkserver``
    torch's watchdog takes the server for the parent, so that loaders outlive a killed rank. A spawned process gets the
    rank's ``sys.path`` and imports the modules that the pickled data set names. They start with the first step and
    live until ``close``, whatever the plans do.

    Args:
        fetcher: makes the batches, in the loader processes.
        requests_from: the requests to work on.
        num_workers: loader processes, at least 1.
        num_ahead: micro-batches that each prepares ahead, at least 1.
        pin_memory: whether batches arrive in page-locked memory, for copies to a GPU.
    """

    def __init__(
        self, fetcher: Fetcher, requests_from: RequestsFrom, *, num_workers: int, num_ahead: int, pin_memory: bool
    ) -> None:
        self._requests_from = requests_from
        self._upcoming = _Upcoming()
        self._loader: DataLoader[Any] | None = DataLoader(
            fetcher,  # type: ignore[arg-type]  # torch's Dataset is only asked for __getitem__
            sampler=self._upcoming,
            batch_size=None,
            collate_fn=_as_it_is,
            num_workers=num_workers,
            prefetch_factor=num_ahead,
            persistent_workers=True,
            multiprocessing_context="spawn",
            pin_memory=pin_memory,
            # Without one of its own the loader would draw from the training's random numbers.
            generator=torch.Generator(),
        )
        self._batches: Iterator[Any] = iter(())
        self._running: tuple[int, int, int | None] | None = None

    def take(self, position: int, num_samples: int, plan: BatchPlan, *, num_batches: int) -> Iterator[Any]:
        """The batches of one step, which starts at ``position`` and has ``num_samples`` over all ranks.

        Raises:
            RecipeError: where user code fails or cannot be sent to the loader processes.
            DataError: where a loader process dies.
        """
        sizes = plan.global_batch_size, plan.micro_batch_size
        if self._running != (position, *sizes):
            self._restart(position, plan)
        # A step that is abandoned half-way leaves the processes in the middle of it: the next one restarts them.
        self._running = None
        for _ in range(num_batches):
            try:
                fetched = next(self._batches)
            except RuntimeError as error:
                raise DataError(f"A loader process of this worker ended: {error}; its own log says why.") from error
            yield unwrap(fetched)
        self._running = (position + num_samples, *sizes)

    def close(self) -> None:
        """End the loader processes; ``take`` must not be called again."""
        # The loader ends its processes when its iterator is collected; it has no other public way.
        self._batches = iter(())
        self._loader = None

    def _restart(self, position: int, plan: BatchPlan) -> None:
        """Throw away what was prepared and begin at ``position``; running processes are kept."""
        assert self._loader is not None
        self._upcoming.requests = self._requests_from(position, plan)
        try:
            self._batches = iter(self._loader)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise RecipeError(
                f"The data set or collate cannot be sent to loader processes ({error}); define their classes and "
                "functions at the top level of a module, or set data.loader_workers: 0."
            ) from error


class _Upcoming:
    """The sampler that torch's loader asks for: whatever requests were put here last."""

    requests: Iterator[FetchRequest] = iter(())

    def __iter__(self) -> Iterator[FetchRequest]:
        return self.requests


def _as_it_is(batch: Any) -> Any:
    return batch
