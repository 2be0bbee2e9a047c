"""What is wrong with the trials of a sweep, each checked as a job of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from orchestrator.spec.check_sweep_form import place_of
from orchestrator.spec.document import with_values
from orchestrator.spec.examine import examine
from orchestrator.spec.findings import Finding
from orchestrator.spec.job import AnyJobSpec
from orchestrator.spec.problems import Problem, dotted, shown
from orchestrator.spec.sweep import (
    assignments_of,
    choices_of,
    combination_of,
    has_separate_trials,
    lists_of,
    shared_values,
)

ProblemsOf = Callable[[AnyJobSpec, frozenset[str]], list[Problem]]
"""Everything wrong with a job, without what reads the broken fields (dotted paths)."""


def trial_problems(spec: AnyJobSpec, problems_of: ProblemsOf, broken: frozenset[str]) -> list[Problem]:
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
    trials: list[AnyJobSpec] = []
    # Where trials share the workers, no trial sees alone what depends on how many there are.
    of_the_sweep = frozenset() if has_separate_trials(spec) else frozenset({"sweep"})
    for index, (assignment, choice) in enumerate(zip(assignments_of(spec), choices, strict=True)):
        data, unset = with_values(values, assignment)
        for path, problem in unset.items():
            faults.add_of_list(path, replace(problem, file=""))
        examination = examine(data)
        for finding in examination.findings:
            faults.add_finding(finding, index, choice)
        if examination.spec is not None:
            trials.append(examination.spec)
            unclear = broken | examination.broken | of_the_sweep | unset.keys()
            for problem in problems_of(trials[-1], unclear):
                faults.add(problem, index, choice)
    return faults.told() or _same_problems(spec, trials)


class _Faults:
    """Collects what is wrong with trials, and tells each fault once.

    Args:
        spec: the job.
    """

    def __init__(self, spec: AnyJobSpec) -> None:
        self._assignments = assignments_of(spec)
        self._place = place_of(spec.sweep)
        self._lists = lists_of(spec.sweep)[1]
        how = combination_of(spec.sweep)
        self._is_drawn = how == "random"
        self._written: Mapping[str, Any] = spec.sweep.get(how, spec.sweep)
        self._found: dict[tuple[Problem, str], dict[int, str]] = {}
        """By a problem without its value and the path of the list that it comes from: the values' texts by their
        index in that list. Without a list: by trial."""
        self._of_lists: dict[Problem, None] = {}

    def add_of_list(self, path: str, problem: Problem) -> None:
        """A fault of a swept path itself."""
        self._of_lists[replace(problem, path=f"{self._place}.{path}", value=shown(self._written[path]))] = None

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
            elif self._is_drawn:
                trial, value = next(iter(values.items()))
                message = f"draws {value} for trial {trial}: {problem.message}" if value else problem.message
                drawn = replace(problem, path=f"{self._place}.{path}", value=shown(self._written[path]))
                problems.append(replace(drawn, message=message))
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


def _same_problems(spec: AnyJobSpec, trials: list[AnyJobSpec]) -> list[Problem]:
    """One problem where a trial is another one once more."""
    choices, lists = choices_of(spec.sweep), lists_of(spec.sweep)[1]
    for index, trial in enumerate(trials):
        first = trials.index(trial)
        if first < index:
            path = next(path for path in reversed(list(lists)) if choices[index][path] != choices[first][path])
            place = f"{place_of(spec.sweep)}.{path}.{choices[index][path]}"
            message = f"makes trial {index} the same as trial {first}"
            return [Problem("", place, shown(lists[path][choices[index][path]]), message, "trials that differ")]
    return []


def described(assignment: Mapping[str, Any]) -> str:
    """What a trial sets, on one line: ``optimizer.lr = 0.1, train.seed = 0``."""
    return ", ".join(f"{path} = {shown(value)}" for path, value in assignment.items())
