"""Where data sets come from, and what a person reads when they do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from data_samples import Numbers, map_style, plan

from orchestrator.core.errors import DataError, RecipeError
from orchestrator.data.sources import hugging_face_datasets, recipe_datasets
from orchestrator.data.stream import is_stream
from orchestrator.spec.methods.sources import HuggingFaceSource, RecipeSource

ROWS = [{"id": i, "x": i / 2} for i in range(6)]


class PlainRecipe:
    """Has nothing to do with data."""


class CollatingRecipe:
    def collate(self, samples: list[Any]) -> Any:
        return samples


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def load(folder: Path, path: str, recipe: Any = None, **fields: Any) -> tuple[Any, Any]:
    config = HuggingFaceSource(name="hugging_face", path=path, **fields)
    return hugging_face_datasets(config, recipe or PlainRecipe(), folder)


def load_error(folder: Path, path: str, **fields: Any) -> str:
    with pytest.raises(DataError) as error:
        load(folder, path, **fields)
    message = str(error.value)
    assert "\n" not in message
    return message


def write(folder: Path, kind: str) -> None:
    """Two files of three rows in a folder beside the spec."""
    (folder / "files").mkdir()
    for part in range(2):
        rows = datasets.Dataset.from_list(ROWS[3 * part : 3 * part + 3])
        file = folder / "files" / f"part_{part}.{kind}"
        if kind == "text":
            file.write_text("\n".join(str(row["id"]) for row in rows))
        else:
            getattr(rows, f"to_{kind}")(str(file))


def ids(dataset: Any) -> list[int]:
    return [int(sample["id"]) for sample in dataset]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", ["json", "csv", "parquet"])
def test_local_files_become_tensors(kind: str, streaming: bool, tmp_path: Path) -> None:
    write(tmp_path, kind)
    files = {"train": f"files/*.{kind}", "test": [f"files/part_1.{kind}"]}
    train, evaluation = load(tmp_path, kind, data_files=files, eval_split="test", streaming=streaming)
    assert ids(train) == [0, 1, 2, 3, 4, 5]  # globs in sorted order
    assert ids(evaluation) == [3, 4, 5]
    assert is_stream(train) == is_stream(evaluation) == streaming
    sample = list(train)[0]  # noqa: RUF015  # an abandoned stream leaves its file to the garbage collector
    assert sample["id"].dtype == torch.int64
    assert sample["x"].dtype == torch.float32


def test_text_files_and_absolute_paths(tmp_path: Path) -> None:
    write(tmp_path, "text")
    train, evaluation = load(tmp_path / "elsewhere", "text", data_files={"train": str(tmp_path / "files" / "*.text")})
    assert list(train["text"]) == ["0", "1", "2", "3", "4", "5"]
    assert evaluation is None
    (micro,) = map_style(train).step(plan(6, None))[1]
    assert sorted(micro.batch["text"]) == ["0", "1", "2", "3", "4", "5"]


def test_a_recipe_that_collates_gets_plain_values(tmp_path: Path) -> None:
    write(tmp_path, "json")
    train, _ = load(tmp_path, "json", CollatingRecipe(), data_files={"train": "files/*.json"})
    assert train[1] == {"id": 1, "x": 0.5}


def test_splits_are_sliced_and_options_passed_on(tmp_path: Path) -> None:
    write(tmp_path, "csv")
    files = {"train": "files/*.csv"}
    options = {"column_names": ["id", "y"], "skiprows": 1}
    train, evaluation = load(
        tmp_path, "csv", data_files=files, train_split="train[:4]", eval_split="train[4:]", options=options
    )
    assert ids(train) == [0, 1, 2, 3]
    assert ids(evaluation) == [4, 5]
    assert train.column_names == ["id", "y"]


def test_a_folder_of_files(tmp_path: Path) -> None:
    write(tmp_path, "parquet")
    assert ids(load(tmp_path, "files")[0]) == [0, 1, 2, 3, 4, 5]


def test_folders_that_were_saved_to_disk(tmp_path: Path) -> None:
    rows = datasets.Dataset.from_list(ROWS)
    rows.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": rows, "test": rows.select([5, 4])}).save_to_disk(str(tmp_path / "both"))
    train, evaluation = load(tmp_path, "one", train_split="train[:50%]", eval_split="train[-1:]")
    assert (ids(train), ids(evaluation)) == ([0, 1, 2], [5])
    train, evaluation = load(tmp_path, "both", train_split="train[:2]+test", eval_split="test")
    assert (ids(train), ids(evaluation)) == ([0, 1, 5, 4], [5, 4])
    assert "Should be one of" in load_error(tmp_path, "one", train_split="test")
    assert "split 'train[:0]' of 'one' is empty" in load_error(tmp_path, "one", train_split="train[:0]")
    assert "remove streaming: true" in load_error(tmp_path, "one", streaming=True)


def test_a_hub_name_that_cannot_be_reached(tmp_path: Path) -> None:
    message = load_error(tmp_path, "nobody/nothing")
    assert message.startswith("data.source: cannot load split 'train' of 'nobody/nothing': ")


def test_what_cannot_be_read_is_told_in_one_sentence(tmp_path: Path) -> None:
    write(tmp_path, "json")
    files = {"train": "files/*.json"}
    assert "data_files.train: no file matches 'files/*.jsonl'" in load_error(
        tmp_path, "json", data_files={"train": ["files/*.json", "files/*.jsonl"]}
    )
    assert "needs data_files" in load_error(tmp_path, "json")
    assert "test" in load_error(tmp_path, "json", data_files=files, train_split="test")
    assert "train[:2]" in load_error(tmp_path, "json", data_files=files, train_split="train[:2]", streaming=True)
    assert "no_such_option" in load_error(tmp_path, "json", data_files=files, options={"no_such_option": 1})
    assert "no data" in load_error(tmp_path, "json", data_files=files, train_split="train[:0]")
    (tmp_path / "files" / "part_1.json").write_text('{"id": 1')
    message = load_error(tmp_path, "json", data_files=files)
    assert "JSON parse error" in message


def test_progress_bars_are_off(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, "json")
    datasets.enable_progress_bars()
    capfd.readouterr()
    load(tmp_path, "json", data_files={"train": "files/*.json"})
    assert capfd.readouterr().err == ""


class RecipeWith:
    def __init__(self, result: Any) -> None:
        self.result = result

    def build_datasets(self) -> Any:
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


def from_recipe(result: Any) -> Any:
    return recipe_datasets(RecipeSource(name="recipe"), RecipeWith(result), Path(__file__).parent)


def test_a_recipes_data_sets_are_handed_over_as_they_are() -> None:
    train, evaluation = Numbers(3), [1, 2]
    assert from_recipe((train, evaluation)) == (train, evaluation)
    assert from_recipe((train, None)) == (train, None)


def one_stream() -> Any:
    return datasets.Dataset.from_dict({"id": [1]}).to_iterable_dataset()


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (Numbers(3), r"must return \(training data, evaluation data or None\); got Numbers"),
        ((Numbers(3),), "got tuple"),
        ((None, Numbers(3)), "the training data must be map-style.* got NoneType"),
        ((Numbers(3), iter([1])), "the evaluation data must be map-style"),
        ((datasets.DatasetDict(), None), "got DatasetDict"),
        ((Numbers(0), None), "the training data are empty"),
        ((Numbers(3), Numbers(0)), "the evaluation data are empty"),
        ((one_stream(), None), "got a stream. Streams come from data.source"),
        (KeyError("oops"), r"RecipeWith.build_datasets raised KeyError at test_sources.py:\d+ \(raise self.result\)"),
    ],
)
def test_a_recipe_that_breaks_its_contract_is_told_so(result: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        from_recipe(result)


def test_a_recipe_without_data_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="PlainRecipe has no build_datasets"):
        recipe_datasets(RecipeSource(name="recipe"), PlainRecipe(), tmp_path)
