"""Loss curves and schedules from what a person names: a CSV, a run directory, a job of the storage, a job spec."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from orchestrator.core.errors import UsageError
from orchestrator.core.run_directory import RunDirectory
from orchestrator.launch.phases import phase_plans
from orchestrator.launch.rates import planned_rates
from orchestrator.launch.store import JobStore
from orchestrator.simulate.annealing_law import Curve
from orchestrator.spec.job import JobSpec
from orchestrator.spec.load import load_resolved, load_spec

SPEC_SUFFIXES = (".yaml", ".yml")
CSV_SUFFIX = ".csv"


def is_spec(name: str) -> bool:
    """Whether a name is that of a job spec, by its ending."""
    return name.endswith(SPEC_SUFFIXES)


class _Row(NamedTuple):
    place: str
    """File and line, for messages."""
    step: int
    lr: float
    loss: float | None


@dataclass(frozen=True)
class CurveReader:
    """Reads what the command line names.

    Args:
        storage: Folder of all run directories.
        loss: Column or metric that holds the loss.
        warmup_steps: Length of the warmup of every logged curve; None takes that of the job's spec where the spec alone
            tells it, and else recognizes it by the rising rate.
        overrides: Of the form ``a.b=value``, for specs.
    """

    storage: Path
    loss: str = "loss"
    warmup_steps: int | None = None
    overrides: Sequence[str] = ()

    def curve(self, name: str) -> Curve:
        """A logged curve with its losses.

        Raises:
            UsageError: where there is none of this name, or something in it is missing or no legal value.
        """
        if is_spec(name):
            raise UsageError(f"CURVE: {name} is a spec, which has no losses; run it, or give it to --predict.")
        rows = self._rows(name)
        if all(row.loss is None for row in rows):
            raise UsageError(f"{name}: there is no {self.loss} at any step; --loss names another column or metric.")
        return self._logged(name, rows)

    def schedule(self, name: str) -> Curve:
        """The rates of every step of a spec or of a logged curve, with what is known of its losses.

        Raises:
            UsageError: as ``curve``, and where the spec alone does not tell the rates.
            SpecError: where the spec is not in order.
        """
        if not is_spec(name):
            logged = self._logged(name, self._rows(name))
            if not logged.lr.any():
                raise UsageError(f"{name}: the rate is 0 at every step; the law needs a training that moves.")
            return logged
        lr = planned_rates(load_spec(name, self.overrides))
        steps = np.arange(1, len(lr) + 1)
        return Curve(name, lr, _rising(steps, lr), np.empty(0, np.int64), np.empty(0))

    def _rows(self, name: str) -> list[_Row]:
        is_csv = name.endswith(CSV_SUFFIX)
        lines = _csv_lines(Path(name)) if is_csv else _metrics_lines(_run_directory(name, self.storage))
        rows = [_row(place, fields, self.loss) for place, fields in lines]
        for before, row in pairwise(rows):
            if row.step <= before.step:
                raise UsageError(f"{row.place}: step {row.step} follows step {before.step}; steps must increase.")
        if len(rows) < 2:
            raise UsageError(f"{name}: fewer than 2 steps are logged.")
        return rows

    def _logged(self, name: str, rows: Sequence[_Row]) -> Curve:
        steps = np.array([row.step for row in rows], np.int64)
        lr = np.array([row.lr for row in rows])
        warmup_steps = self.warmup_steps
        if warmup_steps is None and not name.endswith(CSV_SUFFIX):
            warmup_steps = _warmup_of(_run_directory(name, self.storage))
        if warmup_steps is None:
            if steps[0] > steps[1] - steps[0]:
                raise UsageError(
                    f"{rows[0].place}: the first step is {steps[0]}; --warmup-steps tells how many steps the rate rose "
                    "before, 0 if it did not."
                )
            warmup_steps = _rising(steps, lr)
        seen = [(row.step, row.loss) for row in rows if row.loss is not None]
        losses = np.array(seen).reshape(-1, 2)
        return Curve(name, _every_step(steps, lr, warmup_steps), warmup_steps, losses[:, 0].astype(int), losses[:, 1])


def _rising(steps: NDArray[np.int64], lr: NDArray[np.float64]) -> int:
    """Last step of the rise that a curve begins with; 0 where the rate does not rise at first."""
    is_rise = np.diff(lr) > 1e-9 * lr[1:]
    num_rises = len(is_rise) if is_rise.all() else int(is_rise.argmin())
    return int(steps[num_rises]) if num_rises else 0


def _warmup_of(run: RunDirectory) -> int | None:
    """Last step of the warmup by the job's spec, 0 for one that ends with the first; None where the spec does not tell.

    That is so without a spec, for a training of several phases, and where the size of the training data is needed.
    """
    spec = load_resolved(run.resolved_spec) if run.resolved_spec.is_file() else None
    if not isinstance(spec, JobSpec):
        return None
    plan, *later = phase_plans(spec)
    if later or plan.warmup_samples is None:
        return None
    steps = math.ceil(plan.warmup_samples / plan.global_batch_size)
    return steps if steps > 1 else 0


def _every_step(steps: NDArray[np.int64], lr: NDArray[np.float64], warmup_steps: int) -> NDArray[np.float64]:
    """The rate of each step from 1: linear from 0 through the warmup, and linear between logged steps."""
    known_steps, known = steps.tolist(), lr.tolist()
    if 0 < warmup_steps < known_steps[0]:
        known_steps, known = [warmup_steps, *known_steps], [known[0], *known]
    if warmup_steps:
        known_steps, known = [0, *known_steps], [0.0, *known]
    every: NDArray[np.float64] = np.interp(np.arange(1, steps[-1] + 1), known_steps, known)
    return every


def _run_directory(name: str, storage: Path) -> RunDirectory:
    run = RunDirectory(name)
    if not run.state_file.is_file() and not run.metrics_file.is_file():
        run = JobStore(storage).get(name)
    if not run.metrics_file.is_file():
        raise UsageError(f"{name}: no step is logged yet, there is no {run.metrics_file}.")
    return run


def _metrics_lines(run: RunDirectory) -> Iterator[tuple[str, Mapping[str, Any]]]:
    with run.metrics_file.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            place = f"{run.metrics_file}: line {number}"
            if line.endswith(b"\n"):  # a crash leaves a last line without its end
                yield place, _object(place, line)


def _object(place: str, line: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(line)
    except ValueError:
        fields = None
    if not isinstance(fields, dict):
        raise UsageError(f"{place}: is no JSON object.")
    return fields


def _csv_lines(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if not path.is_file():
        raise UsageError(f"{path}: there is no such file.")
    # What is not UTF-8 cannot be a number, and is reported as the value it stands for.
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as stream:
        reader = csv.DictReader(stream, skipinitialspace=True)
        for fields in reader:
            yield f"{path}: line {reader.line_num}", fields


def _row(place: str, fields: Mapping[str, Any], loss: str) -> _Row:
    for name in ("step", "lr"):
        if fields.get(name) in (None, ""):
            raise UsageError(f"{place}: {name} is missing; there are {', '.join(map(str, fields))}.")
    step, lr = _number(place, "step", fields["step"]), _number(place, "lr", fields["lr"])
    if step < 1 or step != int(step):
        raise UsageError(f"{place}: step is {fields['step']}; it must be a whole number from 1.")
    if lr < 0:
        raise UsageError(f"{place}: lr is {fields['lr']}; it must be at least 0.")
    if fields.get(loss) in (None, ""):
        return _Row(place, int(step), lr, None)
    value = _number(place, loss, fields[loss])
    if value <= 0:
        raise UsageError(
            f"{place}: {loss} is {fields[loss]}; it must be positive, as the law is fitted to its logarithm."
        )
    return _Row(place, int(step), lr, value)


def _number(place: str, name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise UsageError(f"{place}: {name} is {value}; it must be a finite number.")
    return number
