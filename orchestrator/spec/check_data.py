"""Checks of a Hugging Face data source: its local files, its splits, its options. Reads no data."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator
from pathlib import Path

from orchestrator.spec.job import JobSpec
from orchestrator.spec.methods.sources import HuggingFaceSource
from orchestrator.spec.problems import Problem, nearest, shown

LOCAL_BUILDERS = frozenset({"json", "csv", "parquet", "text", "arrow"})
# Keyword arguments of load_dataset -> the field of the spec that they come from.
_SET_BY_FIELDS = {
    "path": "path",
    "name": "config",
    "data_files": "data_files",
    "split": "train_split and eval_split",
    "revision": "revision",
    "streaming": "streaming",
}


def data_file_problems(spec: JobSpec, folder: Path) -> Iterator[Problem]:
    """A builder over local files has files, and relative paths and globs find at least one each."""
    source = spec.data.source
    if not isinstance(source, HuggingFaceSource) or source.path not in LOCAL_BUILDERS:
        return
    if not source.data_files and "data_dir" not in source.options:
        legal = "a mapping of splits to files: {train: train/*.json}"
        yield Problem("", "data.source.data_files", "", f"missing; {source.path} reads files", legal)
    for split, patterns in source.data_files.items():
        is_single = isinstance(patterns, str)
        if not patterns:
            yield Problem(
                "", f"data.source.data_files.{split}", shown(patterns), "no files", "a path or glob that exists"
            )
        for index, pattern in enumerate([patterns] if isinstance(patterns, str) and patterns else patterns):
            path = f"data.source.data_files.{split}" if is_single else f"data.source.data_files.{split}.{index}"
            if not _is_remote(pattern) and not _exists(pattern, folder):
                yield Problem("", path, shown(pattern), f"no such file in {folder}", "a path or glob that exists")


def split_problems(spec: JobSpec, folder: Path) -> Iterator[Problem]:
    """Splits to train and evaluate on are among those that data_files names."""
    source = spec.data.source
    if not isinstance(source, HuggingFaceSource) or not source.data_files:
        return
    for field in ("train_split", "eval_split"):
        written = getattr(source, field)
        for split in re.findall(r"[^+\[\]]+(?:\[[^\]]*\])?", written or ""):
            name = split.partition("[")[0].strip()
            if name not in source.data_files and name != "all":
                legal = ", ".join(source.data_files)
                suggestion = nearest(name, source.data_files)
                message = f"data_files has no split {shown(name)}"
                yield Problem("", f"data.source.{field}", shown(written), message, legal, suggestion)


def option_problems(spec: JobSpec, folder: Path) -> Iterator[Problem]:
    """Options do not repeat what a field of the spec says."""
    source = spec.data.source
    if not isinstance(source, HuggingFaceSource):
        return
    for option, field in _SET_BY_FIELDS.items():
        if option in source.options:
            message = f"is set by data.source's own {field}"
            yield Problem("", f"data.source.options.{option}", shown(source.options[option]), message)


def stream_problems(spec: JobSpec, folder: Path) -> Iterator[Problem]:
    """A stream is read in the worker itself and has no length."""
    if not isinstance(spec.data.source, HuggingFaceSource) or not spec.data.source.streaming:
        return
    if spec.data.loader_workers:
        message = "a stream is read in the worker itself, not in loader processes"
        yield Problem("", "data.loader_workers", str(spec.data.loader_workers), message, "0, or streaming: false")
    lengths = {
        "train.epochs": spec.train.epochs,
        "schedule.warmup.epochs": getattr(spec.schedule.warmup, "epochs", None),
    }
    for path, value in lengths.items():
        if value is not None:
            message = "a stream has no length, so epochs cannot be counted"
            yield Problem("", path, shown(value), message, "steps or samples, or data.source.streaming: false")


def _is_remote(pattern: str) -> bool:
    """Whether a file is not to be looked for here: URLs, chained archives, and absolute paths of a worker's node."""
    return "://" in pattern or "::" in pattern or pattern.startswith("/")


def _exists(pattern: str, folder: Path) -> bool:
    # A file may have a name that is also a pattern.
    return (
        os.path.isfile(folder / pattern) or next(glob.iglob(pattern, root_dir=folder, recursive=True), None) is not None
    )
