"""Checks of the recipe: the file or module exists and defines a class with a recipe's methods and these arguments."""

from __future__ import annotations

import importlib.machinery
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from orchestrator.spec.coupling import COUPLES_SAMPLES, cutting_problems
from orchestrator.spec.job import JobSpec
from orchestrator.spec.methods.sources import HuggingFaceSource
from orchestrator.spec.problems import Problem, nearest, shown
from orchestrator.spec.recipe_class import ClassView, SourceView, parse_source, view_class

METHODS = {"build_model": "build_model()", "build_datasets": "build_datasets()", "loss": "loss(model, batch)"}
"""What a recipe must have, and how it is called."""
# A worker has imported these before the recipe, so a file of the same name would never be read.
_IMPORTED_BEFORE = sys.stdlib_module_names | {"orchestrator", "torch", "numpy", "datasets", "ray", "mlflow", "pydantic"}


def target_problems(spec: JobSpec, folder: Path) -> Iterator[Problem]:
    """The target is a class with the methods of a recipe."""
    target = spec.recipe.target
    try:
        view = _view(target, folder)
    except _TargetError as error:
        yield Problem("", "recipe.target", shown(target), error.message, error.legal, error.suggestion)
        return
    if view is None or not view.is_whole or "__getattr__" in view.members:
        return
    needed = [name for name in METHODS if name != "build_datasets" or not _brings_data(spec)]
    for name in needed:
        if name not in view.members:
            class_name = target.rpartition(":")[2]
            legal = f"a class with {', '.join(METHODS[each] for each in needed)}"
            yield Problem("", "recipe.target", shown(target), f"class {class_name} has no {METHODS[name]}", legal)


def argument_problems(spec: JobSpec, folder: Path) -> Iterator[Problem]:
    """The arguments are those of the class."""
    try:
        view = _view(spec.recipe.target, folder)
    except _TargetError:
        return
    if view is None or view.arguments is None:
        return
    arguments, given = view.arguments, spec.recipe.args
    legal = ", ".join(arguments.legal) or "nothing; the class takes no arguments"
    for name, value in given.items():
        if name not in arguments.legal and not arguments.takes_any:
            suggestion = nearest(name, arguments.legal)
            yield Problem("", f"recipe.args.{name}", shown(value), "unknown argument", legal, suggestion)
    for name in arguments.required:
        if name not in given:
            yield Problem("", f"recipe.args.{name}", "", "missing", f"the class needs {', '.join(arguments.required)}")


def coupling_problems(spec: JobSpec, folder: Path) -> Iterator[Problem]:
    """Nothing cuts the batches of a class that says it couples their samples."""
    try:
        view = _view(spec.recipe.target, folder)
    except _TargetError:
        return
    if view is not None and view.constants.get(COUPLES_SAMPLES) is True:
        yield from cutting_problems(spec)


def _brings_data(spec: JobSpec) -> bool:
    return isinstance(spec.data.source, HuggingFaceSource)


class _TargetError(Exception):
    def __init__(self, message: str, legal: str = "", suggestion: str = "") -> None:
        super().__init__(message)
        self.message, self.legal, self.suggestion = message, legal, suggestion


def _view(target: str, folder: Path) -> ClassView | None:
    """What the source says of the class; None where it cannot tell.

    Raises:
        _TargetError: If there is no such file, module or class.
    """
    where, _, class_name = target.rpartition(":")
    path = _file(where, class_name, folder) if _is_file(where) else _module_file(where, folder)
    if path is None:
        return None
    source = _parse(path, where)
    if class_name in source.classes:
        return view_class(class_name, source)
    if class_name in source.functions:
        raise _TargetError(f"{class_name} is a function", "a class")
    if class_name in source.others or "*" in source.others:
        return None
    suggestion = nearest(class_name, source.classes)
    classes = ", ".join(f"{where}:{name}" for name in source.classes) or f"none; {where} defines no class"
    raise _TargetError(f"{where} has no class {class_name}", classes, suggestion and f"{where}:{suggestion}")


def _is_file(where: str) -> bool:
    return where.endswith(".py") or "/" in where


def _file(where: str, class_name: str, folder: Path) -> Path:
    inside = os.path.normpath(where)
    module = inside.removesuffix(".py").split(os.sep)
    if os.path.isabs(where) or inside.split(os.sep)[0] == "..":
        raise _TargetError("is outside the spec's folder, which is all that travels with the job", "a path inside it")
    if not where.endswith(".py"):
        raise _TargetError("is neither a .py file nor a module", "file.py:Class or package.module:Class")
    if not os.path.isfile(folder / where):
        scripts = sorted(path.name for path in folder.glob("*.py"))
        name = nearest(where, scripts)
        legal = ", ".join(f"{script}:{class_name}" for script in scripts[:10])
        raise _TargetError(f"no such file in {folder}", legal, name and f"{name}:{class_name}")
    if inside != where:
        raise _TargetError("is not the shortest form of its path", "", f"{inside}:{class_name}")
    if any("." in name for name in module):
        raise _TargetError("has a dot in its name, so that Python cannot import it", "one dot, before py")
    if module[0] in _IMPORTED_BEFORE:
        raise _TargetError(f"has the name of the library {module[0]}, which would be imported instead", "another name")
    return folder / where


def _parse(path: Path, where: str) -> SourceView:
    try:
        return parse_source(path.read_bytes())
    except SyntaxError as error:
        line = f" line {error.lineno}:" if error.lineno else ""
        raise _TargetError(f"{where} is not valid Python:{line} {error.msg}") from None
    except OSError as error:
        raise _TargetError(f"{where} cannot be read: {error.strerror}") from None


def _module_file(module: str, folder: Path) -> Path | None:
    """The source of a module, found level by level without importing anything; None where it has none."""
    names = module.split(".")
    if not all(name.isidentifier() for name in names):
        raise _TargetError(f"{module} is neither a .py file nor a module", "file.py:Class or package.module:Class")
    locations: list[str] | None = None
    origin: str | None = None
    for depth, name in enumerate(names):
        found = (
            _find_top_level(name, folder) if depth == 0 else importlib.machinery.PathFinder.find_spec(name, locations)
        )
        if found is None:
            missing = ".".join(names[: depth + 1])
            raise _TargetError(f"no module {missing} in the spec's folder or on Python's path")
        # Without a list, which a module that is no package has not, the next name would be looked for everywhere.
        locations = list(found.submodule_search_locations or [])
        origin = found.origin
    return Path(origin) if origin and origin.endswith(".py") and os.path.isfile(origin) else None


def _find_top_level(name: str, folder: Path) -> importlib.machinery.ModuleSpec | None:
    """In the spec's folder, then wherever this interpreter's finders look (editable installs have their own)."""
    found = importlib.machinery.PathFinder.find_spec(name, [str(folder)])
    if found is not None:
        return found
    candidates = (finder.find_spec(name, None) for finder in sys.meta_path if hasattr(finder, "find_spec"))
    return next((candidate for candidate in candidates if candidate is not None), None)
