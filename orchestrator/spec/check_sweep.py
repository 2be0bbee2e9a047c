"""What is wrong with a sweep: its form, and each of its trials checked as a job of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

from orchestrator.spec.document import with_values
from orchestrator.spec.examine import examine
from orchestrator.spec.findings import Finding
from orchestrator.spec.job import JobSpec
from orchestrator.spec.problems import Problem, dotted, nearest, shown
from orchestrator.spec.seams import seams
from orchestrator.spec.sweep import COMBINATIONS, assignments_of, choices_of, lists_of, shared_values

SWEPT = ("recipe", "train", "batch", "optimizer", "schedule", "scaling", "then", "data")
"""Sections in which trials may differ; everything else is the workers', the shards' or the job's."""
MAX_TRIALS = 64
"""Every worker holds the weights of all trials, and every trial has an MLflow run and a thread on each shard."""
A_LIST = "a list of values, such as optimizer.lr: [0.1, 0.2]"

ProblemsOf = Callable[[JobSpec, frozenset[str]], list[Problem]]
"""Everything wrong with a job, without what reads the broken fields (dotted paths)."""


def form_problems(spec: JobSpec, folder: Path) -> Iterator[Problem]:
    """A sweep is lists of values under paths in which trials may differ, and its exchange can share the workers."""
    if not spec.sweep:
        return
    if spec.exchange.topology != "served":
        message = f"exchange: {spec.exchange.name} trains one model; separate jobs for each trial come later"
        yield Problem("", "sweep", shown(spec.sweep), message, "exchange: coded, whose workers trials share; or {}")
        return
    chosen = [how for how in COMBINATIONS if how in spec.sweep]
    if chosen and len(spec.sweep) > 1:
        others = ", ".join(path for path in spec.sweep if path != chosen[0])
        message = f"{chosen[0]} stands beside {others}"
        yield Problem("", f"sweep.{chosen[0]}", "", message, "grid or zip around all paths, or paths alone")
        return
    how, lists = lists_of(spec.sweep)
    if not isinstance(lists, dict) or not lists:
        legal = f"a mapping of dotted paths, each with {A_LIST}"
        yield Problem("", f"sweep.{how}", shown(lists), "has no lists by dotted path", legal)
        return
    faults = [fault for path, values in lists.items() for fault in _list_problems(path, values, _place(spec.sweep))]
    yield from faults or _number_problems(spec.sweep)


def _place(sweep: Mapping[str, Any]) -> str:
    """Dotted path of the mapping that holds the lists."""
    return next((f"sweep.{how}" for how in COMBINATIONS if how in sweep), "sweep")


def _list_problems(path: str, values: Any, place: str) -> Iterator[Problem]:
    root, where = path.partition(".")[0], f"{place}.{path}"
    section, _, field = path.rpartition(".")
    if not all(path.split(".")):
        yield Problem("", where, shown(values), "is not a dotted path", "a path such as optimizer.lr")
    elif root not in SWEPT:
        is_known = root in JobSpec.model_fields
        message = "is the whole job's and cannot differ between trials" if is_known else "unknown field"
        suggestion = "" if is_known else nearest(root, SWEPT)
        yield Problem("", where, shown(values), message, f"paths in {', '.join(SWEPT)}", suggestion)
    elif field == "name" and section in seams():
        message = "the arguments of one method are not those of another"
        yield Problem("", where, shown(values), message, f"whole methods: {section}: [NAME, {{name: NAME, ...}}]")
    elif not isinstance(values, list) or not values:
        message = "an empty list" if values == [] else "not a list"
        if isinstance(values, dict):
            message = "a mapping, not a list; a path is one key with dots in it"
        yield Problem("", where, shown(values), message, A_LIST)


def _number_problems(sweep: Mapping[str, Any]) -> Iterator[Problem]:
    how, lists = lists_of(sweep)
    counts = {path: len(values) for path, values in lists.items()}
    if how == "zip" and len(set(counts.values())) > 1:
        message = ", ".join(f"{path} has {count}" for path, count in counts.items())
        yield Problem("", "sweep.zip", "", f"values side by side: {message}", "lists of equal length")
        return
    num_trials = prod(counts.values()) if how == "grid" else next(iter(counts.values()))
    if num_trials > MAX_TRIALS:
        product = " x ".join(map(str, counts.values())) if how == "grid" and len(counts) > 1 else ""
        message = f"{product} = {num_trials} trials" if product else f"{num_trials} trials"
        yield Problem("", _place(sweep), "", message, f"at most {MAX_TRIALS}")


def trial_problems(spec: JobSpec, problems_of: ProblemsOf, broken: frozenset[str]) -> list[Problem]:
    """Everything wrong with the trials of a sweep, each problem once.

    Told of the value in the sweep that it comes from, or of the list where all its values have it; else of the job's
    field, with the trial unless all trials have it.

    Args:
        spec: a job whose sweep has a legal form.
        problems_of: finds what is wrong with a single job.
        broken: dotted paths whose values in the spec are not what the user meant.
    """
    values, choices = shared_values(spec), choices_of(spec.sweep)
    faults = _Faults(spec)
    trials: list[JobSpec] = []
    for index, (assignment, choice) in enumerate(zip(assignments_of(spec), choices, strict=True)):
        data, unset = with_values(values, assignment)
        for path, problem in unset.items():
            faults.add_of_list(path, replace(problem, file=""))
        examination = examine(data)
        for finding in examination.findings:
            faults.add_finding(finding, index, choice)
        if isinstance(examination.spec, JobSpec):
            trials.append(examination.spec)
            for problem in problems_of(trials[-1], broken | examination.broken | {"sweep"} | unset.keys()):
                faults.add(problem, index, choice)
    return faults.told() or _same_problems(spec, trials)


class _Faults:
    """Collects what is wrong with trials, and tells each fault once.

    Args:
        spec: the job.
    """

    def __init__(self, spec: JobSpec) -> None:
        self._assignments = assignments_of(spec)
        self._place = _place(spec.sweep)
        self._lists = lists_of(spec.sweep)[1]
        self._found: dict[tuple[Problem, str], dict[int, str]] = {}
        """By a problem without its value and the path of the list that it comes from: the values' texts by their
        index in that list. Without a list: by trial."""
        self._of_lists: dict[Problem, None] = {}

    def add_of_list(self, path: str, problem: Problem) -> None:
        """A fault of a swept path itself."""
        self._of_lists[replace(problem, path=f"{self._place}.{path}", value=shown(self._lists[path]))] = None

    def add(self, problem: Problem, trial: int, choice: Mapping[str, int]) -> None:
        """A problem of one trial, which has chosen these indices."""
        inside = [path for path in choice if f"{problem.path}.".startswith(f"{path}.")]
        path = max(inside, key=len, default="")
        index = choice[path] if path else trial
        self._found.setdefault((replace(problem, value=""), path), {}).setdefault(index, problem.value)

    def add_finding(self, finding: Finding, trial: int, choice: Mapping[str, int]) -> None:
        """What the types refuse in one trial."""
        field = dotted(finding.path)
        problem = Problem("", field, finding.value, finding.message, finding.legal, finding.suggestion)
        for path in choice:
            if path.startswith(f"{field}.") or (path == field and finding.kind == "extra_forbidden"):
                self.add_of_list(path, problem)
                return
        self.add(problem, trial, choice)

    def told(self) -> list[Problem]:
        """The problems, at the places where they are to be mended."""
        problems = list(self._of_lists)
        for (problem, path), values in self._found.items():
            if not path:
                problems.append(self._of_trials(problem, values))
            elif len(values) == len(self._lists[path]) > 1:
                place = f"{self._place}.{path}"
                problems.append(replace(problem, path=place, value=shown(self._lists[path])))
            else:
                rest = problem.path.removeprefix(path)
                problems += [
                    replace(problem, path=f"{self._place}.{path}.{index}{rest}", value=value)
                    for index, value in values.items()
                ]
        return problems

    def _of_trials(self, problem: Problem, values: Mapping[int, str]) -> Problem:
        trial, value = next(iter(values.items()))
        if len(values) == len(self._assignments):
            return replace(problem, value=value)
        message = f"in trial {trial} ({described(self._assignments[trial])}): {problem.message}"
        return replace(problem, value=value, message=message)


def _same_problems(spec: JobSpec, trials: list[JobSpec]) -> list[Problem]:
    """One problem where a trial is another one once more."""
    choices, lists = choices_of(spec.sweep), lists_of(spec.sweep)[1]
    for index, trial in enumerate(trials):
        first = trials.index(trial)
        if first < index:
            path = next(path for path in reversed(list(lists)) if choices[index][path] != choices[first][path])
            place = f"{_place(spec.sweep)}.{path}.{choices[index][path]}"
            message = f"makes trial {index} the same as trial {first}"
            return [Problem("", place, shown(lists[path][choices[index][path]]), message, "trials that differ")]
    return []


def described(assignment: Mapping[str, Any]) -> str:
    """What a trial sets, on one line: ``optimizer.lr = 0.1, train.seed = 0``."""
    return ", ".join(f"{path} = {shown(value)}" for path, value in assignment.items())
