"""What is wrong with the form of a sweep, before any of its trials is looked at, and with how they are to be run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

from orchestrator.spec.draws import OPTIONS, fault_of
from orchestrator.spec.job import AnyJobSpec, JobSpec, ScriptJobSpec, Trials
from orchestrator.spec.problems import Problem, nearest, shown
from orchestrator.spec.seams import seams
from orchestrator.spec.sweep import COMBINATIONS, combination_of, has_separate_trials, lists_of

SWEPT_BESIDE = ("recipe", "train", "batch", "optimizer", "schedule", "scaling", "then", "data")
"""Sections in which trials may differ that share their workers: everything else is the workers', the shards' or the
job's."""
OF_THE_SWEEP = ("name", "queue", "tracking", "storage", "mirror", "sweep", "trials")
"""Sections in which trials with workers of their own may not differ."""
MAX_BESIDE = 64
"""Trials that share workers: every worker holds the weights of all, and every trial has a thread on each shard."""
MAX_SEPARATE = 256
"""Trials with workers of their own: every one has a run directory from the start."""
_UNKNOWN = "unknown field"
A_LIST = "a list of values, such as optimizer.lr: [0.1, 0.2]"


def form_problems(spec: AnyJobSpec, folder: Path) -> Iterator[Problem]:
    """A sweep is lists of values, or distributions, under paths in which trials may differ."""
    if not spec.sweep:
        return
    chosen = [how for how in COMBINATIONS if how in spec.sweep]
    if chosen and len(spec.sweep) > 1:
        others = ", ".join(path for path in spec.sweep if path != chosen[0])
        message = f"{chosen[0]} stands beside {others}"
        yield Problem("", f"sweep.{chosen[0]}", "", message, "grid, zip or random around all paths, or paths alone")
        return
    how, place = combination_of(spec.sweep), place_of(spec.sweep)
    lists = spec.sweep.get(how, spec.sweep)
    paths = [path for path in lists if how != "random" or path not in OPTIONS] if isinstance(lists, dict) else []
    if not paths:
        kind = "a distribution" if how == "random" else A_LIST
        legal = f"a mapping of dotted paths, each with {kind}"
        yield Problem("", f"sweep.{how}", shown(lists), "has no lists by dotted path", legal)
        return
    faults = [fault for path in paths for fault in _problems_at(path, lists[path], place, spec)]
    if how == "random":
        faults += _random_problems(lists)
    yield from faults or _number_problems(spec)


def place_of(sweep: Mapping[str, Any]) -> str:
    """Dotted path of the mapping that holds the lists."""
    how = combination_of(sweep)
    return f"sweep.{how}" if how in sweep else "sweep"


def swept_in(spec: AnyJobSpec) -> tuple[str, ...]:
    """Sections in which the trials of a job may differ."""
    if not has_separate_trials(spec):
        return SWEPT_BESIDE
    return tuple(name for name in type(spec).model_fields if name not in OF_THE_SWEEP)


def _problems_at(path: str, value: Any, place: str, spec: AnyJobSpec) -> list[Problem]:
    """What is wrong with a path, else with its values."""
    of_values = _distribution_problems if place == "sweep.random" else _list_problems
    return list(_path_problems(path, value, place, spec)) or list(of_values(path, value, place))


def _path_problems(path: str, value: Any, place: str, spec: AnyJobSpec) -> Iterator[Problem]:
    root, where = path.partition(".")[0], f"{place}.{path}"
    section, _, field = path.rpartition(".")
    if not all(path.split(".")):
        yield Problem("", where, shown(value), "is not a dotted path", "a path such as optimizer.lr")
    elif root not in (legal_roots := swept_in(spec)):
        message = _why_not(root, spec)
        suggestion = nearest(root, legal_roots) if message == _UNKNOWN else ""
        yield Problem("", where, shown(value), message, f"paths in {', '.join(legal_roots)}", suggestion)
    elif section == "script.args" and not field.isdecimal():
        message = "the items of script.args have numbers"
        yield Problem("", where, shown(value), message, f"script.options.{field} for --{field}, or script.args.NUMBER")
    elif field == "name" and section in seams():
        message = "the arguments of one method are not those of another"
        yield Problem("", where, shown(value), message, f"whole methods: {section}: [NAME, {{name: NAME, ...}}]")


def _why_not(root: str, spec: AnyJobSpec) -> str:
    """Why trials may not differ in a section."""
    if root in type(spec).model_fields:
        return "is the whole job's and cannot differ between trials"
    if root in JobSpec.model_fields:
        return "belongs to jobs with a recipe; a script decides this itself"
    return "belongs to jobs with a script" if root in ScriptJobSpec.model_fields else _UNKNOWN


def _list_problems(path: str, values: Any, place: str) -> Iterator[Problem]:
    if isinstance(values, list) and values:
        return
    message = "an empty list" if values == [] else "not a list"
    if isinstance(values, dict):
        message = "a mapping, not a list; a path is one key with dots in it"
    yield Problem("", f"{place}.{path}", shown(values), message, A_LIST)


def _distribution_problems(path: str, distribution: Any, place: str) -> Iterator[Problem]:
    message, legal = fault_of(distribution)
    if message:
        yield Problem("", f"{place}.{path}", shown(distribution), message, legal)


def _random_problems(sweep: Mapping[str, Any]) -> Iterator[Problem]:
    for name, least, missing in (("trials", 1, "missing"), ("seed", 0, "")):
        value = sweep.get(name)
        if value is None and not missing:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            message = missing if value is None else "not a number of trials" if name == "trials" else "not a seed"
            told = shown(value) if name in sweep else ""
            yield Problem("", f"sweep.random.{name}", told, message, f"an integer >= {least}")


def _number_problems(spec: AnyJobSpec) -> Iterator[Problem]:
    most = MAX_SEPARATE if has_separate_trials(spec) else MAX_BESIDE
    how, place = combination_of(spec.sweep), place_of(spec.sweep)
    if how == "random" and spec.sweep[how]["trials"] > most:
        yield Problem("", f"{place}.trials", str(spec.sweep[how]["trials"]), "too many", f"at most {most}")
        return
    counts = {path: len(values) for path, values in lists_of(spec.sweep)[1].items()}
    if how == "random":
        found, wanted = next(iter(counts.values())), spec.sweep[how]["trials"]
        if found < wanted:
            message = f"only {found} different ones could be drawn"
            yield Problem("", f"{place}.trials", str(wanted), message, f"at most {found}, or a grid of all")
    elif how == "zip" and len(set(counts.values())) > 1:
        message = ", ".join(f"{path} has {count}" for path, count in counts.items())
        yield Problem("", place, "", f"values side by side: {message}", "lists of equal length")
    else:
        yield from _too_many(counts, how, place, most)


def _too_many(counts: Mapping[str, int], how: str, place: str, most: int) -> Iterator[Problem]:
    num_trials = prod(counts.values()) if how == "grid" else next(iter(counts.values()))
    if num_trials > most:
        product = " x ".join(map(str, counts.values())) if how == "grid" and len(counts) > 1 else ""
        message = f"{product} = {num_trials} trials" if product else f"{num_trials} trials"
        yield Problem("", place, "", message, f"at most {most}")


def trials_problems(spec: AnyJobSpec, folder: Path) -> Iterator[Problem]:
    """`trials` is for sweeps whose trials have workers of their own, and what is compared is measured on the way."""
    if spec.trials == Trials():
        return
    if not has_separate_trials(spec):
        message = "trials that share the workers train all at once" if spec.sweep else "there is no sweep"
        legal = "no `trials`, or another exchange" if spec.sweep else "no `trials`, or a sweep"
        yield Problem("", "trials", shown(spec.trials.model_dump(mode="json")), message, legal)
        return
    rule = spec.trials.early_stopping
    if isinstance(spec, ScriptJobSpec):
        if rule is not None:
            where, value = "trials.early_stopping", shown(rule.model_dump(mode="json"))
            message = "compares what metrics.jsonl has of each trial; a script's metrics are in its MLflow run alone"
            yield Problem("", where, value, message, "no early_stopping: every trial runs to its end")
        return
    is_evaluated = spec.train.eval_every is not None or any(
        path in ("train", "train.eval_every") for path in lists_of(spec.sweep)[1]
    )
    if rule is not None and rule.metric.startswith("eval/") and not is_evaluated:
        message = "is measured at the end only, where there is nothing left to stop"
        where = "trials.early_stopping.metric"
        yield Problem("", where, shown(rule.metric), message, "train.eval_every, or a metric of the steps such as loss")
