"""Checks of a script: the file is in the spec's folder, which travels with the job, and is Python; its options."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from orchestrator.spec.job import ScriptJobSpec, WorkerRange
from orchestrator.spec.problems import Problem, nearest, shown
from orchestrator.spec.recipe_class import parse_source

MAX_SHOWN_FILES = 10


def script_problems(spec: ScriptJobSpec, folder: Path) -> Iterator[Problem]:
    """The script is a Python file inside the spec's folder, which is what travels, and nobody knows its batch."""
    workers, path = spec.resources.workers, spec.script.path
    if isinstance(workers, WorkerRange) and workers.samples_per_worker is not None:
        message = "counts samples of a step, and what a step of a script is nobody knows"
        field = "resources.workers.samples_per_worker"
        yield Problem("", field, str(workers.samples_per_worker), message, "null, or a recipe in place of the script")
    if os.path.isabs(path) or os.path.normpath(path).split(os.sep)[0] == "..":
        message = "is outside the spec's folder, which is all that travels with the job"
        yield Problem("", "script.path", shown(path), message, "a path inside it")
    elif not os.path.isfile(folder / path):
        there = sorted(file.name for file in folder.glob("*.py"))
        legal = ", ".join(there[:MAX_SHOWN_FILES]) or "a Python file in it"
        yield Problem("", "script.path", shown(path), f"no such file in {folder}", legal, nearest(path, there))
    else:
        try:
            parse_source((folder / path).read_bytes())
        except SyntaxError as error:
            line = f" line {error.lineno}:" if error.lineno else ""
            yield Problem("", "script.path", shown(path), f"is not valid Python:{line} {error.msg}")
        except OSError as error:
            yield Problem("", "script.path", shown(path), f"cannot be read: {error.strerror}")


def repeated_option_problems(spec: ScriptJobSpec, folder: Path) -> Iterator[Problem]:
    """No option is given twice: which one a script takes depends on its parser."""
    given = {str(word).partition("=")[0] for word in spec.script.args}
    for name, value in spec.script.options.items():
        if f"--{name}" in given:
            message = f"--{name} stands in script.args too"
            yield Problem("", f"script.options.{name}", shown(value), message, "one of the two")
