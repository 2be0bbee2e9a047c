"""Whole columns of a tensor-formatted `datasets.Dataset` as a batch, without making one dict per sample.

The library's own formatter builds nested columns row by row (100 ms for 512 images of 8x8); here a batch is gathered
from views of the Arrow buffers, which stay memory-mapped. Both give equal tensors; what has no regular numeric layout
(strings, images, missing values, ragged lists) goes through the library.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray


def is_columnar(dataset: Any) -> bool:
    """Whether the data set is a `datasets.Dataset` in torch or numpy format, so that its columns are batches."""
    if "datasets" not in sys.modules:
        return False
    from datasets import Dataset

    return isinstance(dataset, Dataset) and dataset.format["type"] in ("torch", "numpy")


class ColumnarReader:
    """Reads batches of a columnar data set: column name -> tensor of shape [samples, ...], or a list of other values.

    Equal to ``default_collate`` over the samples, except that ragged columns are lists of tensors instead of an error.

    Args:
        dataset: a data set that ``is_columnar``.
    """

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset
        layout = dataset.format
        self._names: list[str] = layout["columns"]
        # Formats with arguments of their own (a dtype) are left to the library.
        plain = not layout["format_kwargs"] and not layout["output_all_columns"]
        self._columns = {name: _Column(dataset, name) for name in self._names} if plain else {}
        self._rest = None if plain else dataset

    def read(self, ids: Sequence[int]) -> dict[str, Any]:
        """The batch of these samples, in their order."""
        rows = self._rows(ids)
        gathered = {name: column.gather(rows) for name, column in self._columns.items()}
        irregular = [name for name, values in gathered.items() if values is None]
        if irregular:
            self._leave_to_library(irregular)
        batch = {name: torch.from_numpy(values) for name, values in gathered.items() if values is not None}
        if self._rest is not None:
            batch |= {name: _as_collated(values) for name, values in self._rest[list(ids)].items()}
        return batch

    def _leave_to_library(self, names: list[str]) -> None:
        for name in names:
            del self._columns[name]
        slow = [name for name in self._names if name not in self._columns]
        self._rest = self._dataset.with_format(self._dataset.format["type"], columns=slow)

    def _rows(self, ids: Sequence[int]) -> NDArray[np.int64]:
        """Rows of the table: a data set that was selected or shuffled maps its indices to them."""
        mapping = self._dataset._indices
        if mapping is None:
            return np.asarray(ids)
        rows: NDArray[np.int64] = mapping.fast_gather(ids).column(0).to_numpy().astype(np.int64)
        return rows


class _Column:
    """One column as views of its Arrow chunks, made when first read."""

    def __init__(self, dataset: Any, name: str) -> None:
        self._chunks = dataset.data.column(name).chunks
        self._starts = np.cumsum([0, *(len(chunk) for chunk in self._chunks)])
        self._views: dict[int, NDArray[Any]] = {}

    def gather(self, rows: NDArray[np.int64]) -> NDArray[Any] | None:
        """Values of the rows, shape [len(rows), ...]; None where the layout is not regular or not numeric."""
        chunk_of_row = np.searchsorted(self._starts, rows, side="right") - 1
        order = np.argsort(chunk_of_row, kind="stable")
        edges = np.flatnonzero(np.diff(chunk_of_row[order], prepend=-1, append=-1))
        values: NDArray[Any] | None = None
        for start, stop in itertools.pairwise(edges.tolist()):
            here = order[start:stop]
            chunk = int(chunk_of_row[here[0]])
            view = self._view(chunk)
            if view is None or (values is not None and values.shape[1:] != view.shape[1:]):
                return None
            if values is None:
                values = np.empty((len(rows), *view.shape[1:]), dtype=_formatted_type(view.dtype))
            values[here] = view[rows[here] - self._starts[chunk]]
        return values

    def _view(self, chunk: int) -> NDArray[Any] | None:
        if chunk not in self._views:
            view = regular_view(self._chunks[chunk])
            if view is None:
                return None
            self._views[chunk] = view
        return self._views[chunk]


def regular_view(array: Any) -> NDArray[Any] | None:
    """An Arrow array of numbers, or of equally long nested lists of numbers, as NumPy of shape [rows, ...].

    No copy, except of booleans. None where a value is missing, lists differ in length, or values are not numbers.
    """
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    shape = [len(array)]
    while pa.types.is_list(array.type) or pa.types.is_large_list(array.type) or pa.types.is_fixed_size_list(array.type):
        if array.null_count or not len(array):
            return None
        values = array.flatten()
        length, remainder = divmod(len(values), len(array))
        if remainder or not (pa.types.is_fixed_size_list(array.type) or (np.diff(array.offsets) == length).all()):
            return None
        shape.append(length)
        array = values
    kind = array.type
    if array.null_count or not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        return None
    view: NDArray[Any] = array.to_numpy(zero_copy_only=not pa.types.is_boolean(kind)).reshape(shape)
    return view


def _formatted_type(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """What the torch and numpy formats of `datasets` make of an Arrow type: int64, float32 or bool."""
    if np.issubdtype(dtype, np.integer):
        return np.dtype(np.int64)
    return np.dtype(np.float32) if np.issubdtype(dtype, np.floating) else dtype


def _as_collated(values: Any) -> Any:
    """A formatted column of the library in the form that ``default_collate`` gives."""
    if isinstance(values, torch.Tensor):
        return values
    if isinstance(values, np.ndarray) and values.dtype.kind in "biuf":
        return torch.from_numpy(values)
    values = list(values)
    return [torch.from_numpy(v) if isinstance(v, np.ndarray) and v.dtype.kind in "biuf" else v for v in values]
