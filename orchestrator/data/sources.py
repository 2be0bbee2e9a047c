"""Where data sets come from: the recipe itself or the `datasets` library. Hands them over checked; reads no sample."""

from __future__ import annotations

import glob
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.core.errors import DataError, RecipeError
from orchestrator.core.user_code import user_code
from orchestrator.data.library import library_call
from orchestrator.data.stream import is_stream
from orchestrator.spec.methods.sources import HuggingFaceSource, RecipeSource


def recipe_datasets(config: RecipeSource, recipe: Any, folder: Path) -> tuple[Any, Any]:
    """The training and evaluation data that the recipe's ``build_datasets`` returns; evaluation may be None.

    Args:
        config: the source; has no fields of its own.
        recipe: the user's recipe.
        folder: the folder of the user's files.

    Raises:
        RecipeError: where ``build_datasets`` raises or returns something else than two map-style data sets.
    """
    name = f"{type(recipe).__name__}.build_datasets"
    if not hasattr(recipe, "build_datasets"):
        raise RecipeError(f"{type(recipe).__name__} has no build_datasets; write it or set data.source.")
    with user_code(name, folder):
        result = recipe.build_datasets()
    if not (isinstance(result, tuple) and len(result) == 2):
        raise RecipeError(f"{name} must return (training data, evaluation data or None); got {_kind(result)}.")
    train, evaluation = result
    for role, dataset in (("training", train), ("evaluation", evaluation)):
        if dataset is None and role == "evaluation":
            continue
        if not _is_map_style(dataset):
            raise RecipeError(
                f"{name}: the {role} data must be map-style, with __len__ and __getitem__ by number; "
                f"got {_kind(dataset)}. Streams come from data.source: {{name: hugging_face, streaming: true}}."
            )
        if len(dataset) == 0:
            raise RecipeError(f"{name}: the {role} data are empty.")
    return train, evaluation


def hugging_face_datasets(config: HuggingFaceSource, recipe: Any, folder: Path) -> tuple[Any, Any]:
    """The training and evaluation data of a `datasets` source: from the hub, from local files or saved to disk.

    They come in torch format (numbers and images as tensors), unless the recipe has a ``collate``, which then gets
    the library's plain Python values.

    Args:
        config: the source.
        recipe: the user's recipe.
        folder: folder that relative paths start from.

    Returns:
        `datasets.Dataset`s, or `datasets.IterableDataset`s where streaming; evaluation may be None.

    Raises:
        DataError: where something cannot be found, reached or read, or is empty.
    """
    import datasets

    datasets.disable_progress_bars()
    splits = [config.train_split] + ([] if config.eval_split is None else [config.eval_split])
    loaded = []
    for split in splits:
        dataset = _load(config, split, folder)
        if not config.streaming and len(dataset) == 0:
            raise DataError(f"data.source: split {split!r} of {config.path!r} is empty.")
        loaded.append(dataset if hasattr(recipe, "collate") else dataset.with_format("torch"))
    return loaded[0], loaded[1] if len(loaded) > 1 else None


def _load(config: HuggingFaceSource, split: str, folder: Path) -> Any:
    from datasets import load_dataset

    location = folder / config.path
    path = config.path
    with library_call(f"data.source: cannot load split {split!r} of {config.path!r}"):
        if not config.data_files and location.is_dir():
            if (location / "state.json").is_file() or (location / "dataset_dict.json").is_file():
                return _saved_to_disk(config, split, location)
            path = str(location)
        _check_has_files(config, path)
        return load_dataset(
            path,
            name=config.config,
            data_files=_absolute_files(config.data_files, folder) or None,
            split=split,
            streaming=config.streaming,
            revision=config.revision,
            **config.options,
        )


def _saved_to_disk(config: HuggingFaceSource, split: str, location: Path) -> Any:
    """A split, in slicing syntax, of a folder that ``save_to_disk`` wrote; a single data set there is split train."""
    from datasets import Dataset, ReadInstruction, concatenate_datasets, load_from_disk

    if config.streaming:
        raise DataError(
            f"data.source: {config.path!r} was written by save_to_disk, so it is prepared; remove streaming: true."
        )
    loaded = load_from_disk(str(location))
    by_name = {"train": loaded} if isinstance(loaded, Dataset) else dict(loaded)
    pieces = ReadInstruction.from_spec(split).to_absolute({name: len(data) for name, data in by_name.items()})
    return concatenate_datasets([by_name[piece.splitname].select(range(piece.from_, piece.to)) for piece in pieces])


def _check_has_files(config: HuggingFaceSource, path: str) -> None:
    """A builder without files would read whatever lies in the process's working directory."""
    from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES

    if path in _PACKAGED_DATASETS_MODULES and not config.data_files and "data_dir" not in config.options:
        raise DataError(f"data.source: the builder {path!r} needs data_files, such as {{train: 'data/*.{path}'}}.")


def _absolute_files(data_files: Mapping[str, str | list[str]], folder: Path) -> dict[str, list[str]]:
    """The files of each split; globs are expanded in sorted order, URLs stay as they are.

    Raises:
        DataError: where a pattern matches no file.
    """
    found: dict[str, list[str]] = {}
    for split, patterns in data_files.items():
        found[split] = []
        for pattern in [patterns] if isinstance(patterns, str) else patterns:
            matches = (
                [pattern] if "://" in pattern else sorted(glob.glob(str(pattern), root_dir=folder, recursive=True))
            )
            if not matches:
                raise DataError(f"data.source.data_files.{split}: no file matches {pattern!r} in {folder}.")
            found[split] += [match if "://" in match else str(folder / match) for match in matches]
    return found


def _is_map_style(dataset: Any) -> bool:
    # A mapping (a DatasetDict, say) has both methods, but its keys are not numbers.
    return hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__") and not isinstance(dataset, Mapping)


def _kind(value: Any) -> str:
    return "a stream" if is_stream(value) else f"{type(value).__name__}"
