"""Validates merged values; where that fails, mends them provisionally, so that later checks can still find more."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from orchestrator.spec.findings import Finding, Path, findings
from orchestrator.spec.job import JobSpec
from orchestrator.spec.problems import dotted, overlaps

MAX_ROUNDS = 20
# Stand-ins for required sections; what concerns them is in `broken`, so that nothing is ever reported about them.
_PLACEHOLDERS: dict[str, Any] = {"name": "placeholder", "recipe": {"target": "recipe.py:Recipe"}, "train": {"steps": 1}}


@dataclass(frozen=True)
class Examination:
    """What a validation brought."""

    spec: JobSpec | None
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
    data = copy.deepcopy(data)
    mended: set[str] = set()
    found: list[Finding] = []
    for _ in range(MAX_ROUNDS):
        try:
            return Examination(JobSpec.model_validate(data), found, reported | mended)
        except ValidationError as error:
            latest = findings(error)
        found += [finding for finding in latest if not _is_echo(dotted(finding.path), reported, mended)]
        for finding in latest:
            _mend(data, finding, mended)
    return Examination(None, found, reported | mended)


def _is_echo(path: str, reported: frozenset[str], mended: set[str]) -> bool:
    """Whether a finding may only follow from an entry that is missing or mended."""
    return overlaps(path, mended) or any(f"{entry}.".startswith(f"{path}.") for entry in reported)


def _mend(data: dict[str, Any], finding: Finding, broken: set[str]) -> None:
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
    for name, placeholder in _PLACEHOLDERS.items():
        if name not in data:
            data[name] = copy.deepcopy(placeholder)
            broken.add(name)


def _get(data: Any, path: Path) -> Any:
    for part in path:
        data = data.get(part) if isinstance(data, dict) else None
    return data
