"""``queue.yaml`` of a storage: how much the jobs of one owner may hold at the same time."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, ValidationError

from orchestrator.spec.problems import Problem, SpecError, dotted, shown
from orchestrator.spec.section import Section
from orchestrator.spec.yaml_source import read_yaml

FILE_NAME = "queue.yaml"


def _whole_to_float(value: object) -> object:
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


class OwnerQuota(Section):
    """The most that one owner's jobs may hold together; null is no limit."""

    gpus: Annotated[int, Field(ge=0)] | None = None
    """GPUs."""
    cpus: Annotated[float, Field(ge=0), BeforeValidator(_whole_to_float)] | None = None
    """CPU cores."""


class QueueFile(Section):
    """The whole file."""

    quotas: dict[str, OwnerQuota] = {}
    """By owner; who is not named has no limit."""


def read_quotas(storage: Path) -> dict[str, OwnerQuota]:
    """The quotas of a storage; none where it has no ``queue.yaml``.

    Raises:
        SpecError: with everything that is wrong with the file.
    """
    path = storage / FILE_NAME
    if not path.exists():
        return {}
    source = read_yaml(path, str(path))
    problems = list(source.problems)
    quotas: dict[str, OwnerQuota] = {}
    try:
        quotas = QueueFile.model_validate(source.data).quotas
    except ValidationError as error:
        for details in error.errors(include_url=False):
            where = dotted(details["loc"])
            message, legal = _words(details["type"], len(details["loc"]))
            problems.append(
                Problem(str(path), where, shown(details["input"]), message, legal, line=source.lines.get(where))
            )
    if problems:
        raise SpecError(problems)
    return quotas


def _words(kind: str, depth: int) -> tuple[str, str]:
    """What is wrong with a value of this depth, and what would be right."""
    if kind == "extra_forbidden":
        return "unknown key", "gpus, cpus" if depth > 1 else "quotas"
    if depth <= 2:
        return "not a mapping", "quotas: {OWNER: {gpus: 4, cpus: 64}}"
    return "not legal", "a number >= 0, whole for gpus, or null"
