"""Validates merged values; where that fails, mends them provisionally, so that later checks can still find more."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from orchestrator.spec.findings import Finding, Path, findings
from orchestrator.spec.job import AnyJobSpec, JobSpec, ScriptJobSpec
from orchestrator.spec.problems import dotted, nearest, overlaps

MAX_ROUNDS = 20
# Stand-ins for required sections; what concerns them is in `broken`, so that nothing is ever reported about them.
_PLACEHOLDERS: dict[type[AnyJobSpec], dict[str, Any]] = {
    JobSpec: {"name": "placeholder", "recipe": {"target": "recipe.py:Recipe"}, "train": {"steps": 1}},
    ScriptJobSpec: {"name": "placeholder", "script": {"path": "train.py"}},
}


@dataclass(frozen=True)
class Examination:
    """What a validation brought."""

    spec: AnyJobSpec | None
    """The spec; provisional where there are findings or broken paths, None where it could not be mended."""
    findings: list[Finding]
    """Everything that the types refuse."""
    broken: frozenset[str]
    """Dotted paths whose values in `spec` are not what the user wrote or meant."""


def examine(data: dict[str, Any], reported: frozenset[str] = frozenset()) -> Examination:
    """Validate the values of a spec.

    Args:
        data: Plain values; not changed.
        reported: Dotted paths that the user has already heard of; entries there may be left out of `data`.
    """
    kind = kind_of(data)
    # null takes back what a base of the other kind says.
    of_others = (JobSpec.model_fields.keys() | ScriptJobSpec.model_fields.keys()) - kind.model_fields.keys()
    data = copy.deepcopy({key: value for key, value in data.items() if value is not None or key not in of_others})
    mended: set[str] = set()
    found: list[Finding] = []
    for _ in range(MAX_ROUNDS):
        try:
            return Examination(kind.model_validate(data), found, reported | mended)
        except ValidationError as error:
            latest = findings(error, kind)
        found += [finding for finding in latest if not _is_echo(dotted(finding.path), reported, mended)]
        for finding in latest:
            _mend(data, finding, mended, _PLACEHOLDERS[kind])
    return Examination(None, found, reported | mended)


def kind_of(data: dict[str, Any]) -> type[AnyJobSpec]:
    """Return which kind of spec some values are meant for: a script has a say where there is no recipe."""
    if data.get("recipe") is not None:
        return JobSpec
    unknown = [key for key in data if key not in JobSpec.model_fields]
    misspelt = any(nearest(key, ["script", *JobSpec.model_fields]) == "script" for key in unknown)
    return ScriptJobSpec if misspelt and data.get("script", True) is not None else JobSpec


def _is_echo(path: str, reported: frozenset[str], mended: set[str]) -> bool:
    """Whether a finding may only follow from an entry that is missing or mended."""
    return overlaps(path, mended) or any(f"{entry}.".startswith(f"{path}.") for entry in reported)


def _mend(data: dict[str, Any], finding: Finding, broken: set[str], placeholders: dict[str, Any]) -> None:
    """Replace a misspelt choice by the nearest one; leave everything else out."""
    # A list is left out as a whole: without one item it would mean something else.
    length = next((index for index, part in enumerate(finding.path) if isinstance(part, int)), len(finding.path))
    path = finding.path[:length]
    if finding.kind == "missing" and length == len(finding.path):
        path = path[:-1]
    *parents, key = path or ("",)
    section = _get(data, tuple(parents))
    if isinstance(section, dict) and key in section:
        del section[key]
        if finding.kind != "extra_forbidden":
            broken.add(dotted(path))
            if finding.kind == "not_a_choice" and finding.suggestion:
                section[key] = finding.suggestion
        # An unknown key leaves its section as the user wrote it, unless it stands for a key that is missing.
        elif finding.suggestion and finding.suggestion not in section:
            broken.add(dotted((*parents, finding.suggestion)))
    for name, placeholder in placeholders.items():
        if name not in data:
            data[name] = copy.deepcopy(placeholder)
            broken.add(name)


def _get(data: Any, path: Path) -> Any:
    for part in path:
        data = data.get(part) if isinstance(data, dict) else None
    return data
