"""Columns gathered from Arrow buffers equal what `datasets` and ``default_collate`` make of the same samples."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pytest
import torch
from data_samples import map_style, plan
from torch.utils.data import default_collate

from orchestrator.data.columns import ColumnarReader, is_columnar, regular_view
from orchestrator.data.fetch import Fetcher, FetchRequest

NUM_ROWS = 40
RNG = np.random.default_rng(0)
COLUMNS: dict[str, tuple[Any, Any]] = {
    "int64": (RNG.integers(0, 9, NUM_ROWS), datasets.Value("int64")),
    "uint8": (RNG.integers(0, 255, NUM_ROWS), datasets.Value("uint8")),
    "float64": (RNG.random(NUM_ROWS), datasets.Value("float64")),
    "float16": (RNG.random(NUM_ROWS).astype(np.float16), datasets.Value("float16")),
    "bool": (RNG.random(NUM_ROWS) > 0.5, datasets.Value("bool")),
    "label": (RNG.integers(0, 2, NUM_ROWS), datasets.ClassLabel(names=["a", "b"])),
    "vector": (RNG.random((NUM_ROWS, 6)), datasets.List(datasets.Value("float32"))),
    "fixed": (RNG.random((NUM_ROWS, 6)), datasets.List(datasets.Value("float32"), length=6)),
    "nested": (RNG.random((NUM_ROWS, 2, 3)), datasets.List(datasets.List(datasets.Value("float32")))),
    "image": (RNG.integers(0, 255, (NUM_ROWS, 4, 5)), datasets.Array2D((4, 5), "uint8")),
    "volume": (RNG.random((NUM_ROWS, 2, 2, 3)), datasets.Array3D((2, 2, 3), "float32")),
    "text": ([f"row {i}" for i in range(NUM_ROWS)], datasets.Value("string")),
}
IDS = [3, 3, 39, 0, 17, 20, 19]


def make(names: list[str], folder: Path) -> datasets.Dataset:
    """A memory-mapped data set of several record batches."""
    features = datasets.Features({name: COLUMNS[name][1] for name in names})
    columns = {name: list(COLUMNS[name][0]) for name in names}
    parts = [
        datasets.Dataset.from_dict({name: values[i : i + 10] for name, values in columns.items()}, features=features)
        for i in range(0, NUM_ROWS, 10)
    ]
    datasets.concatenate_datasets(parts).save_to_disk(str(folder))
    return datasets.load_from_disk(str(folder))


@pytest.fixture(autouse=True)
def _no_progress_bars() -> None:
    datasets.disable_progress_bars()


def assert_same(got: Any, expected: Any) -> None:
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, torch.Tensor):
            assert got[name].dtype == value.dtype, name
            assert torch.equal(got[name], value), name
        else:
            assert list(got[name]) == list(value), name


@pytest.mark.parametrize("kind", ["torch", "numpy"])
@pytest.mark.parametrize("arrangement", ["whole", "shuffled", "one column hidden"])
def test_columns_equal_collated_samples(kind: str, arrangement: str, tmp_path: Path) -> None:
    dataset = make(list(COLUMNS), tmp_path / "data")
    if arrangement == "shuffled":
        dataset = dataset.shuffle(seed=1)
    shown = [name for name in COLUMNS if arrangement != "one column hidden" or name != "volume"]
    dataset = dataset.with_format(kind, columns=shown)
    reader = ColumnarReader(dataset)
    expected = default_collate(dataset.__getitems__(IDS))
    assert set(expected) == set(shown)
    assert_same(reader.read(IDS), expected)
    assert_same(reader.read(IDS), expected)  # again, now that it knows which columns are irregular


def test_formats_with_arguments_are_kept(tmp_path: Path) -> None:
    dataset = make(["float64", "vector"], tmp_path / "data").with_format("torch", dtype=torch.float64)
    assert_same(ColumnarReader(dataset).read(IDS), default_collate(dataset.__getitems__(IDS)))
    assert ColumnarReader(dataset).read(IDS)["vector"].dtype == torch.float64


def test_ragged_and_missing_values_go_through_the_library() -> None:
    columns = {"ragged": [[1], [2, 3], [4]], "same": [[1, 2], [3, 4], [5, 6]], "missing": [1.0, None, 3.0]}
    dataset = datasets.Dataset.from_dict(columns).with_format("torch")
    batch = ColumnarReader(dataset).read([2, 1])
    assert [value.tolist() for value in batch["ragged"]] == [[4], [2, 3]]
    assert batch["same"].tolist() == [[5, 6], [3, 4]]
    assert batch["missing"][0] == 3.0
    assert torch.isnan(batch["missing"][1])


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (pa.array([1, 2, 3]), [1, 2, 3]),
        (pa.array([[1, 2], [3, 4]]).slice(1), [[3, 4]]),
        (pa.array([[[1], [2]], [[3], [4]]]), [[[1], [2]], [[3], [4]]]),
        (pa.array([[1, 2], [3, 4], [5, 6]], pa.list_(pa.int8(), 2)).slice(1, 1), [[3, 4]]),
        (pa.array([True, False, True]).slice(1), [False, True]),
        (pa.array([1, None]), None),
        (pa.array([[1], None]), None),
        (pa.array([[1, 2], None], pa.list_(pa.int8(), 2)), None),
        (pa.array([[1, 2], [3]]), None),
        (pa.array([[1], [2, 3, 4]]), None),  # four values in two lists, but not two and two
        (pa.array(["a"]), None),
        (pa.array([], pa.list_(pa.int8())), None),
    ],
)
def test_regular_views(array: pa.Array, expected: list[Any] | None) -> None:
    view = regular_view(array)
    assert (None if view is None else view.tolist()) == expected


def test_only_tensor_formats_without_collate_are_columnar(tmp_path: Path) -> None:
    dataset = make(["int64", "vector"], tmp_path / "data")
    assert not is_columnar(dataset)
    assert not is_columnar([1, 2])
    assert not is_columnar(dataset.with_transform(lambda batch: batch))
    assert is_columnar(dataset.with_format("numpy"))
    (micro,) = map_style(dataset.with_format("torch"), collate=lambda samples: [type(s) for s in samples]).step(
        plan(2, None)
    )[1]
    assert micro.batch == [dict, dict]


def test_a_used_fetcher_still_travels(tmp_path: Path) -> None:
    dataset = make(["int64", "image"], tmp_path / "data").with_format("torch")
    fetcher = Fetcher(dataset, None, seed=0, purpose=1, code_folder=None)
    request = FetchRequest(np.asarray(IDS), 0)
    unused = pickle.dumps(fetcher)
    batch = fetcher.fetch(request)
    assert pickle.dumps(fetcher) == unused  # the memory-mapped file stays where it is
    assert_same(pickle.loads(unused).fetch(request), batch)
