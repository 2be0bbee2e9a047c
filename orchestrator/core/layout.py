"""Where the elements of every parameter lie on a rank, for whoever needs sums over whole parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from orchestrator.core.collectives import Collectives


@dataclass(frozen=True, slots=True)
class Run:
    """This rank's elements of one parameter, consecutive in the parameter and in a flat partition."""

    flat: Tensor
    """The partition that the optimizer steps on, [elements of all its parameters on this rank, padding included]."""
    offset: int
    """Index of the first element in ``flat``."""
    start: int
    """Index of the first element in the whole parameter, row-major; 0 where this rank has none."""
    length: int
    """Number of elements; 0 where this rank has none."""
    shape: tuple[int, ...]
    """Shape of the whole parameter."""

    def view(self, like_flat: Tensor) -> Tensor:
        """The run's elements of any tensor that lies as ``flat`` does."""
        return like_flat.detach()[self.offset : self.offset + self.length]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardLayout:
    """The runs of a model whose parameters were laid end to end in flat partitions and divided among the ranks."""

    runs: Mapping[str, Run]
    """By the name of the parameter: the same names in the same order on every rank."""
    collectives: Collectives
    """Whose sum over ranks makes a whole of the runs."""


def by_partition(runs: Mapping[str, Run]) -> list[list[tuple[str, Run]]]:
    """The runs of each flat partition with the names of their parameters.

    A parameter's place in its list is its number wherever a partition has one number for each of its parameters.
    """
    partitions: dict[Tensor, list[tuple[str, Run]]] = {}
    for name, run in runs.items():
        partitions.setdefault(run.flat, []).append((name, run))
    return list(partitions.values())
