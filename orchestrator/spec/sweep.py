"""Sweeps: several trainings that differ in what the lists of `sweep` set, each as a job of its own."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, overload

from orchestrator.spec.document import with_values
from orchestrator.spec.draws import draw_lists
from orchestrator.spec.job import MAX_NAME_CHARACTERS, AnyJobSpec, JobSpec, ScriptJobSpec
from orchestrator.spec.methods.coded import Coded

COMBINATIONS = ("grid", "zip", "random")
"""grid takes every combination of the lists' values; zip takes the first of each list, then the second of each; random
draws each list."""


def has_separate_trials(spec: AnyJobSpec) -> bool:
    """Whether a job is a sweep whose trials are trainings with workers of their own; coded ones share the workers."""
    share_workers = isinstance(spec, JobSpec) and isinstance(spec.exchange, Coded)
    return bool(spec.sweep) and not share_workers


@overload
def trials_of(spec: JobSpec) -> tuple[JobSpec, ...]: ...
@overload
def trials_of(spec: ScriptJobSpec) -> tuple[ScriptJobSpec, ...]: ...
@overload
def trials_of(spec: AnyJobSpec) -> tuple[AnyJobSpec, ...]: ...


def trials_of(spec: AnyJobSpec) -> tuple[AnyJobSpec, ...]:
    """The trials of a sweep, each as a job without one, called ``<name>-<k>``; other specs are their only trial.

    Args:
        spec: a job whose sweep has passed the checks.
    """
    if not spec.sweep:
        return (spec,)
    values = shared_values(spec)
    return tuple(
        type(spec).model_validate({**with_values(values, assignment)[0], "name": _trial_name(spec.name, index)})
        for index, assignment in enumerate(assignments_of(spec))
    )


def assignments_of(spec: AnyJobSpec) -> tuple[Mapping[str, Any], ...]:
    """What each trial sets, by dotted path; without a sweep there is one trial, which sets nothing."""
    _, lists = lists_of(spec.sweep)
    return tuple({path: lists[path][index] for path, index in choice.items()} for choice in choices_of(spec.sweep))


def sweep_of(spec: AnyJobSpec) -> tuple[Mapping[str, Any], ...]:
    """What each trial of a sweep sets; empty for every other job."""
    return assignments_of(spec) if spec.sweep else ()


def choices_of(sweep: Mapping[str, Any]) -> tuple[Mapping[str, int], ...]:
    """For each trial the index of its value in the list of each dotted path; in a grid the last path varies fastest."""
    how, lists = lists_of(sweep)
    if how != "grid":
        return tuple(dict.fromkeys(lists, index) for index in range(min(map(len, lists.values()))))
    ranges = [range(len(values)) for values in lists.values()]
    return tuple(dict(zip(lists, indices, strict=True)) for indices in itertools.product(*ranges))


def lists_of(sweep: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """How a sweep combines its lists, and the lists by dotted path; paths that stand alone are a grid.

    Those of a random sweep are drawn here, and stand side by side.
    """
    how = combination_of(sweep)
    if how == "random":
        return how, draw_lists(sweep[how])
    return (how, sweep[how]) if how in sweep else ("grid", sweep)


def combination_of(sweep: Mapping[str, Any]) -> str:
    """``grid``, ``zip`` or ``random``."""
    return next((how for how in COMBINATIONS if how in sweep), "grid")


def shared_values(spec: AnyJobSpec) -> dict[str, Any]:
    """The plain values that a sweep's trials start from: all defaults filled in, no sweep, and no copy of their own."""
    return spec.model_dump(mode="json", exclude={"sweep", "trials", "mirror"})


def _trial_name(name: str, index: int) -> str:
    suffix = f"-{index}"
    return name[: MAX_NAME_CHARACTERS - len(suffix)].rstrip("-") + suffix
