"""Runs of a benchmark as lines of a file: an interrupted one goes on from there."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Generic, TypeVar

from orchestrator.core.run_directory import read_json_lines

R = TypeVar("R")
Result = dict[str, Any]


class RunFile(Generic[R]):
    """All runs that have been made, and their file.

    Args:
        path: JSON lines; need not exist.
        processes: runs at one time, each in a process of its own.
        kind: class of the runs, a frozen dataclass of JSON values.
        train: makes one, at the top level of a module.
    """

    def __init__(self, path: Path, processes: int, kind: type[R], train: Callable[[R], tuple[R, Result]]) -> None:
        self._path, self._processes, self._train = path, processes, train
        self.results = {_of(kind, line["run"]): line["result"] for line in read_json_lines(path)}

    def make(self, wanted: Iterable[R]) -> dict[R, Result]:
        """All runs so far, with those that were missing among the wanted ones made now."""
        missing = [run for run in dict.fromkeys(wanted) if run not in self.results]
        if not missing:
            return self.results
        self._path.parent.mkdir(parents=True, exist_ok=True)
        context = multiprocessing.get_context("spawn")
        with context.Pool(self._processes) as pool, self._path.open("a", encoding="utf-8") as stream:
            for run, result in pool.imap_unordered(self._train, missing):
                self.results[run] = result
                stream.write(json.dumps({"run": asdict(run), "result": result}) + "\n")  # type: ignore[call-overload]
                stream.flush()
                print(run, result, flush=True)
        return self.results


def _of(kind: type[R], fields: dict[str, Any]) -> R:
    """A run of what JSON has made of it: tuples have become lists."""
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()})
