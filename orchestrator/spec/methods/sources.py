"""Data sources that a spec may name."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from orchestrator.spec.section import Method


class RecipeSource(Method):
    """The data sets that the recipe's build_datasets returns."""

    name: Literal["recipe"]


class HuggingFaceSource(Method):
    """A data set read by the Hugging Face `datasets` library: a hub name or a builder over local files."""

    name: Literal["hugging_face"]
    path: Annotated[str, Field(min_length=1)]
    """Hub name (`ylecun/mnist`), a folder, or a builder: json, csv, parquet, text, arrow, imagefolder."""
    config: str | None = None
    """Configuration of the data set, where it has several."""
    data_files: dict[str, str | list[str]] = {}
    """Files of each split for a builder, relative to the spec's folder, globs allowed."""
    train_split: str = "train"
    """Split to train on, in `datasets` slicing syntax."""
    eval_split: str | None = None
    """Split to evaluate on; null is no evaluation."""
    streaming: bool = False
    """Read while training instead of preparing first; the number of shards must divide by the workers."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    options: dict[str, Any] = {}
    """More keyword arguments of datasets.load_dataset."""


SourceConfig = Annotated[RecipeSource | HuggingFaceSource, Field(discriminator="name")]
