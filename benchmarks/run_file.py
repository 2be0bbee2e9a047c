"""Runs of a benchmark as lines of a file: an interrupted one goes on from there."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from orchestrator.core.run_directory import read_json_lines

R = TypeVar("R")
Result = dict[str, Any]


def make_runs(
    path: Path, processes: int, wanted: Iterable[R], kind: type[R], train: Callable[[R], tuple[R, Result]]
) -> dict[R, Result]:
    """All runs that are wanted, those that the file does not hold yet made now.

    Args:
        path: JSON lines; need not exist.
        processes: runs at one time, each in a process of its own.
        wanted: frozen dataclasses.
        kind: their class.
        train: makes one, at the top level of a module.
    """
    results = {kind(**line["run"]): line["result"] for line in read_json_lines(path)}
    missing = [run for run in dict.fromkeys(wanted) if run not in results]
    path.parent.mkdir(parents=True, exist_ok=True)
    with multiprocessing.get_context("spawn").Pool(processes) as pool, path.open("a", encoding="utf-8") as stream:
        for run, result in pool.imap_unordered(train, missing):
            results[run] = result
            stream.write(json.dumps({"run": asdict(run), "result": result}) + "\n")  # type: ignore[call-overload]
            stream.flush()
            print(run, result, flush=True)
    return results
