"""Reads job specs: YAML, base and overrides become one typed, checked spec, or a list of everything wrong."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.representer import SafeRepresenter

from orchestrator.spec.check import run_checks
from orchestrator.spec.document import Document, read_document
from orchestrator.spec.examine import examine
from orchestrator.spec.job import MAX_NAME_CHARACTERS, AnyJobSpec, JobSpec, ScriptJobSpec
from orchestrator.spec.problems import Problem, SpecError, dotted, shown

NOT_PART_OF_TRAINING: dict[str, Any] = {
    **dict.fromkeys(
        (
            "name",
            "engine",
            "resources",
            "checkpoint",
            "retries",
            "queue",
            "tracking",
            "storage",
            "mirror",
            "env",
            "trials",
        ),
        True,
    ),
    "train": {"activation_checkpointing", "compile", "log_every"},
    "exchange": {"bucket_mib", "worker_timeout_s"},
    "optimizer": {"implementation", "log_layers_every"},
    "data": {"loader_workers", "prefetch"},
    "batch": {"controller": {"min_utility"}},
}
"""Fields that may change without making another training of the job, as pydantic's ``exclude`` has it."""


@dataclass(frozen=True)
class LoadedSpec:
    """A spec that passed every check, and where it came from."""

    spec: AnyJobSpec
    file: Path
    """The spec's file, absolute."""
    folder: Path
    """The folder of the file, absolute: recipes and data files are relative to it, and it travels with the job."""
    submitted_text: str
    """The file as it was read, before base, overrides and defaults."""


def load_spec(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> LoadedSpec:
    """Read and check a spec. Precedence: overrides, the file, its `base`, defaults.

    Args:
        path: A YAML file.
        overrides: Of the form ``a.b=value``, the value in YAML, list items by index: ``optimizer.betas.0=0.8``.

    Raises:
        SpecError: If anything is wrong, with all problems.
    """
    document = read_document(path, overrides)
    file = Path(os.path.abspath(path))
    if "name" not in document.data:
        _name_after_folder(document, file.parent)
    spec = _validated(document, file.parent)
    return LoadedSpec(spec, file, file.parent, document.text)


def load_resolved(path: str | os.PathLike[str]) -> AnyJobSpec:
    """Read a spec that `dump_resolved` wrote. Its recipe, script and files are not looked for.

    Raises:
        SpecError: If the file is not a legal spec.
    """
    return _validated(read_document(path), folder=None)


def load_recipe_job(path: str | os.PathLike[str]) -> JobSpec:
    """Read a spec as `load_resolved` does, for what only jobs with a recipe have.

    Raises:
        SpecError: If the file is not a legal spec, or one with a script.
    """
    spec = load_resolved(path)
    if isinstance(spec, ScriptJobSpec):
        raise SpecError([Problem(os.fspath(path), "script", "", "is not trained by this package", "recipe")])
    return spec


class _Representer(SafeRepresenter):
    """Writes what every reader of YAML takes for the same value."""

    def represent_float(self, data: float) -> ScalarNode:
        """Write 1.0e-06 for 1e-06, which is a string in YAML 1.1."""
        mantissa, e, exponent = repr(data).partition("e")
        text = f"{mantissa}.0e{exponent}" if e and "." not in mantissa else repr(data)
        return self.represent_scalar("tag:yaml.org,2002:float", text)

    def represent_str(self, data: str) -> ScalarNode:
        """Escape strings with line breaks: the emitter's other styles lose those of Unicode (U+0085, U+2028)."""
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=None if data.isprintable() else '"')


_Representer.add_representer(float, _Representer.represent_float)
_Representer.add_representer(str, _Representer.represent_str)


def dump_resolved(spec: AnyJobSpec) -> str:
    """Return a spec as YAML with all defaults, fields in their documented order; `load_resolved` gives it back."""
    yaml = YAML(typ="safe", pure=True)
    yaml.Representer = _Representer
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # its default is None
    yaml.width = 1 << 20
    stream = io.StringIO()
    yaml.dump(spec.model_dump(mode="json"), stream)
    return stream.getvalue()


def spec_hash(spec: AnyJobSpec) -> str:
    """Return the SHA-256 (64 hexadecimal digits) of all that defines the training: see `NOT_PART_OF_TRAINING`."""
    values = spec.model_dump(mode="json", exclude=NOT_PART_OF_TRAINING)
    canonical = json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()


def _name_after_folder(document: Document, folder: Path) -> None:
    name = re.sub(r"[^a-z0-9]+", "-", folder.name.lower()).strip("-")[:MAX_NAME_CHARACTERS]
    if name:
        document.data["name"] = name
    else:
        message = f"missing, and the folder's name {shown(folder.name)} does not give one"
        document.problems.append(Problem(document.file, "name", "", message, "lower-case letters, digits and hyphens"))


def _validated(document: Document, folder: Path | None) -> AnyJobSpec:
    reported = frozenset(problem.path for problem in document.problems if problem.path)
    examination = examine(document.data, reported)
    problems = list(document.problems)
    for finding in examination.findings:
        path = dotted(finding.path)
        problems.append(Problem("", path, finding.value, finding.message, finding.legal, finding.suggestion))
    if examination.spec is not None and folder is not None:
        problems += run_checks(examination.spec, folder, examination.broken)
    if problems:
        raise SpecError(_in_order(document, problems))
    assert examination.spec is not None  # without problems there is nothing that could not be mended
    return examination.spec


def _in_order(document: Document, problems: Iterable[Problem]) -> list[Problem]:
    """Name file and line of every problem, then sort: the spec's file first, top to bottom."""
    placed = []
    for problem in problems:
        if not problem.file:
            file, line = document.origin(problem.path)
            problem = replace(problem, file=file, line=line)
        placed.append(problem)
    return sorted(placed, key=lambda p: (p.file != document.file, p.file, p.line is None, p.line or 0))
