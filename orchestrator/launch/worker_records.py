"""Records of workers' times from what a person names: a CSV, a JSONL, a run directory, a job of the storage."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.core.coding.build import build_scheme
from orchestrator.core.errors import UsageError
from orchestrator.core.run_directory import RunDirectory
from orchestrator.core.worker_times import StepTimes, read_recent
from orchestrator.launch.store import JobStore
from orchestrator.simulate.stragglers.recorded import Record
from orchestrator.spec.job import JobSpec
from orchestrator.spec.load import load_resolved
from orchestrator.spec.methods.asynchronous import Asynchronous
from orchestrator.spec.methods.coded import Coded

CSV_SUFFIX, JSONL_SUFFIX = ".csv", ".jsonl"


def read_record(name: str, storage: Path, *, max_steps: int) -> Record:
    """The newest times of a job's workers, or those of a file.

    A CSV has a line for each step and a number of seconds for each worker, empty where it is not known. A JSONL has for
    each step such a list, or an object like those of ``worker_times.jsonl``. In files each worker has computed
    1 / num_workers of each batch.

    Args:
        name: File, run directory or job.
        storage: Folder of all run directories.
        max_steps: Steps that are kept at most.

    Raises:
        UsageError: where there is none of this name, nothing is recorded, or something in a file is no legal value.
    """
    if name.endswith(CSV_SUFFIX):
        return _record(name, list(_csv_steps(Path(name)))[-max_steps:])
    if name.endswith(JSONL_SUFFIX):
        return _record(name, list(_jsonl_steps(Path(name)))[-max_steps:])
    run = RunDirectory(name)
    if not run.state_file.is_file() and not run.worker_times_file.is_file():
        run = JobStore(storage).get(name)
    # A job's first step is no sample of the others: memory is reserved, kernels are chosen or compiled.
    return _record(name, [times for times in read_recent(run.worker_times_file, max_steps) if times.step > 1], run)


def _record(name: str, steps: Sequence[StepTimes], run: RunDirectory | None = None) -> Record:
    if not steps:
        raise UsageError(f"{name}: no times of workers are recorded.")
    num_workers = len(steps[0].seconds)
    load, in_order = 1 / num_workers, True
    spec = load_resolved(run.resolved_spec) if run is not None and run.resolved_spec.is_file() else None
    if isinstance(spec, JobSpec) and isinstance(spec.exchange, Coded):
        load = build_scheme(spec.exchange.scheme, num_workers, **spec.exchange.parameters()).load
        in_order = spec.exchange.scheme == "uncoded"
    if isinstance(spec, JobSpec) and isinstance(spec.exchange, Asynchronous):
        load, in_order = 1 / spec.exchange.pushes_per_update, False
    return Record(
        steps=np.array([times.step for times in steps], np.int64),
        seconds=np.array([times.seconds for times in steps], np.float64),
        elements=np.array([times.elements for times in steps], np.float64),
        load=load,
        in_order=in_order,
    )


def _csv_steps(path: Path) -> Iterator[StepTimes]:
    _check_exists(path)
    num_workers: int | None = None
    # What is not UTF-8 cannot be a number, and is reported as the value it stands for.
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as stream:
        reader = csv.reader(stream)
        for step, cells in enumerate(reader, start=1):
            place = f"{path}: line {reader.line_num}"
            seconds = [None if not cell.strip() else _number(place, "seconds", cell) for cell in cells]
            num_workers = _same_workers(place, len(seconds), num_workers)
            yield StepTimes(step, seconds, [None] * num_workers)


def _jsonl_steps(path: Path) -> Iterator[StepTimes]:
    _check_exists(path)
    num_workers: int | None = None
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            place = f"{path}: line {number}"
            try:
                value = json.loads(line)
            except ValueError:
                raise UsageError(f"{place}: is no JSON.") from None
            fields = value if isinstance(value, dict) else {"seconds": value}
            seconds = _numbers(place, "seconds", fields.get("seconds"))
            num_workers = _same_workers(place, len(seconds), num_workers)
            elements = _numbers(place, "elements", fields.get("elements", [None] * num_workers))
            _same_workers(place, len(elements), num_workers)
            yield StepTimes(int(_number(place, "step", fields.get("step", number))), seconds, elements)


def _check_exists(path: Path) -> None:
    if not path.is_file():
        raise UsageError(f"{path}: there is no such file.")


def _same_workers(place: str, num_workers: int, num_before: int | None) -> int:
    if num_workers == 0 or num_workers != (num_before or num_workers):
        legal = f"{num_before}, one for each worker" if num_before else "at least one"
        raise UsageError(f"{place}: has {num_workers} numbers; there must be {legal}.")
    return num_workers


def _numbers(place: str, name: str, values: Any) -> list[float | None]:
    if not isinstance(values, list):
        raise UsageError(f"{place}: {name} is {json.dumps(values)}; it must be a list with a number for each worker.")
    return [None if value is None else _number(place, name, value) for value in values]


def _number(place: str, name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not (math.isfinite(number) and number >= 0):
        raise UsageError(f"{place}: {name} is {value}; it must be a finite number of at least 0.")
    return number
