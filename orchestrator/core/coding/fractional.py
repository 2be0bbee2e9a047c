"""Fractional repetition (arXiv 1612.03301): groups of workers that all compute the same, of whom one is enough."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from orchestrator.core.coding.checks import check_stragglers
from orchestrator.core.coding.scheme import Decoded, Workers
from orchestrator.core.coding.single_round import SingleRound, one_message_each


def spread_groups(num_workers: int, num_groups: int, nodes: Sequence[str] | None = None) -> NDArray[np.intp]:
    """The group of each worker, ``[num_workers]``; sizes of groups differ by at most 1.

    Workers are dealt to the groups in turn, node after node, so that one slow node costs as few groups as possible:
    two workers of a node are in the same group only where the node has more workers than there are groups. Without
    nodes a group holds the workers that are equal modulo ``num_groups``.

    Args:
        num_workers: Workers to deal.
        num_groups: Groups, at most ``num_workers``.
        nodes: Name of each worker's node, ``[num_workers]``.

    Raises:
        ValueError: where there is not one node for each worker.
    """
    if nodes is not None and len(nodes) != num_workers:
        raise ValueError(f"Invalid nodes value: {len(nodes)} names. Must be one for each of {num_workers} workers.")
    order = list(range(num_workers))
    if nodes is not None:
        first_seen = {node: place for place, node in reversed(list(enumerate(nodes)))}
        order.sort(key=lambda worker: first_seen[nodes[worker]])
    groups = np.empty(num_workers, dtype=np.intp)
    groups[order] = np.arange(num_workers) % num_groups
    return groups


class Fractional(SingleRound):
    """Exact with any ``stragglers`` workers missing, and often with many more: every group needs one message.

    There are num_workers // (stragglers + 1) groups. Messages are plain sums and so are their combinations, which
    keeps them exact to rounding in every precision. The batch is cut into one chunk for each worker where groups are
    of equal size, otherwise into one for each group.
    """

    def __init__(self, num_workers: int, *, stragglers: int, nodes: Sequence[str] | None = None) -> None:
        check_stragglers(stragglers, num_workers)
        num_groups = num_workers // (stragglers + 1)
        num_chunks = num_workers if num_workers % num_groups == 0 else num_groups
        super().__init__(num_workers, num_chunks=num_chunks, load=1 / num_groups)
        self.groups = spread_groups(num_workers, num_groups, nodes)
        """Group of each worker, [num_workers]."""
        self.num_groups = num_groups

    def _message(self, worker: int) -> tuple[tuple[int, ...], tuple[float, ...]]:
        size = len(self.chunk_weights) // self.num_groups
        start = int(self.groups[worker]) * size
        return tuple(range(start, start + size)), (1.0,) * size

    def _suffices(self, arrived: Workers) -> bool:
        return bool(np.bincount(self.groups[arrived], minlength=self.num_groups).all())

    def _combination(self, job: int, arrived: Workers) -> Decoded:
        return one_message_each(job, self.first_of_groups(arrived), np.ones(self.num_groups))

    def first_of_groups(self, arrived: Workers) -> NDArray[np.intp]:
        """The lowest worker that arrived of each group that has one, in the order of the groups.

        In that order sums have the same last bit, whoever of a group it was.
        """
        workers = np.flatnonzero(arrived)
        _, first = np.unique(self.groups[workers], return_index=True)
        return workers[first]
