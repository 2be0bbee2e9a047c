"""Batches as recipes make them: tensors inside mappings, lists and tuples, samples along their first dimension."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any

from torch import Tensor

from orchestrator.core.errors import RecipeError
from orchestrator.spec.batch_arithmetic import share


def map_columns(batch: Any, change: Callable[[Any], Any]) -> Any:
    """The same structure with every column changed: a tensor, or a list that holds none; the rest is left as it is."""
    if isinstance(batch, Tensor):
        return change(batch)
    if isinstance(batch, MutableMapping):
        changed = copy.copy(batch)
        changed.update({key: map_columns(value, change) for key, value in batch.items()})
        return changed
    if isinstance(batch, list):
        has_tensors = any(True for _ in tensors_of(batch))
        return [map_columns(value, change) for value in batch] if has_tensors else change(batch)
    if isinstance(batch, tuple):
        values = [map_columns(value, change) for value in batch]
        return type(batch)(*values) if hasattr(batch, "_fields") else tuple(values)
    return batch


def map_tensors(batch: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same structure with every tensor changed; anything else is left as it is."""
    return map_columns(batch, lambda column: change(column) if isinstance(column, Tensor) else column)


def tensors_of(batch: Any) -> Iterator[Tensor]:
    """All tensors of a batch, in its order."""
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, Mapping):
        for value in batch.values():
            yield from tensors_of(value)
    elif isinstance(batch, list | tuple):
        for value in batch:
            yield from tensors_of(value)


def num_samples(batch: Any) -> int:
    """Samples of a batch: the length of the first dimension of its tensors, but for those that have none.

    Raises:
        RecipeError: where these lengths differ, or there is none.
    """
    lengths = sorted({len(tensor) for tensor in tensors_of(batch) if tensor.dim() > 0})
    if len(lengths) != 1:
        found = "are " + ", ".join(map(str, lengths)) if lengths else "do not exist"
        raise RecipeError(
            f"A batch is to be cut into groups of samples, and the first dimensions of its tensors {found}. Legal: "
            "a collate whose tensors all have one row for each sample."
        )
    return lengths[0]


def cut(batch: Any, largest: int) -> list[tuple[Any, float]]:
    """Cut a batch into as few groups of at most ``largest`` samples as can be, as equal as workers' shares are.

    Returns:
        Each group with its share of the batch's samples. Tensors without dimensions, and what is no column of samples,
        are in every group.

    Raises:
        RecipeError: where it is not clear what its samples are.
    """
    total = num_samples(batch)
    num_groups = -(-total // largest)
    bounds = [share(total, index, num_groups) for index in range(num_groups)]
    return [(_rows(batch, total, start, stop), (stop - start) / total) for start, stop in bounds]


def _rows(batch: Any, total: int, start: int, stop: int) -> Any:
    def rows(column: Any) -> Any:
        is_constant = column.dim() == 0 if isinstance(column, Tensor) else len(column) != total
        return column if is_constant else column[start:stop]

    return map_columns(batch, rows)
