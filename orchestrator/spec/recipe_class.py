"""What a class of Python source offers, read from its syntax tree without running it."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

# Bases that bring neither methods of a recipe nor arguments.
_EMPTY_BASES = frozenset({"object", "Protocol", "Generic", "ABC"})


@dataclass(frozen=True)
class Arguments:
    """Keyword arguments of a class."""

    legal: tuple[str, ...]
    required: tuple[str, ...]
    takes_any: bool
    """Whether other keywords are accepted too."""


@dataclass(frozen=True)
class ClassView:
    """One class as far as the source tells."""

    members: frozenset[str]
    """Names bound in the class and in its visible bases."""
    is_whole: bool
    """Whether all base classes are visible, so that a name that is not in `members` does not exist."""
    arguments: Arguments | None
    """Keyword arguments; None where the source does not tell."""
    constants: Mapping[str, object]
    """Values of the names that the class or a visible base binds to a literal constant."""


@dataclass(frozen=True)
class SourceView:
    """The top level of one file."""

    classes: dict[str, ast.ClassDef]
    functions: frozenset[str]
    others: frozenset[str]
    """Names that are imported or assigned; ``*`` where a star import may bind any name."""


def parse_source(source: bytes) -> SourceView:
    """Return what the top level of a file defines.

    Raises:
        SyntaxError: If it is not Python.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as for "\d" in the user's strings
            tree = ast.parse(source)
    except (ValueError, RecursionError, MemoryError) as error:
        raise SyntaxError(str(error) or "too deeply nested") from None
    statements = list(_statements(tree.body))
    functions = {node.name for node in statements if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    classes = {node.name: node for node in statements if isinstance(node, ast.ClassDef)}
    return SourceView(classes, frozenset(functions), frozenset(_bound_names(statements)) - functions - set(classes))


def view_class(name: str, source: SourceView) -> ClassView:
    """Return what one of the classes of a file offers."""
    lineage = list(_lineage(name, source.classes, set()))
    visible = [node for node in lineage if node is not None]
    members = frozenset(bound for node in visible for bound in _bound_names(_statements(node.body)))
    constants = {name: value for node in reversed(visible) for name, value in _constants(node)}
    return ClassView(members, None not in lineage, _arguments(lineage), constants)


def _lineage(name: str, classes: dict[str, ast.ClassDef], seen: set[str]) -> Iterator[ast.ClassDef | None]:
    """The class, then its bases, depth first; None for one that is defined elsewhere."""
    node = classes.get(name)
    if node is None:
        yield None
    elif name not in seen:
        seen.add(name)
        yield node
        for base in node.bases:
            plain = base.value if isinstance(base, ast.Subscript) else base
            local = plain.id if isinstance(plain, ast.Name) and plain.id in classes else ""
            if local == name:  # `class Digits(Digits)`: the base was imported under the same name
                yield None
            elif local or _last_name(plain) not in _EMPTY_BASES:
                yield from _lineage(local, classes, seen)


def _arguments(lineage: list[ast.ClassDef | None]) -> Arguments | None:
    for index, node in enumerate(lineage):
        if node is None or node.keywords:
            return None
        init = _method(node, "__init__")
        if init is not None:
            return _signature(init.args)
        if "__init__" in _bound_names(_statements(node.body)) or _method(node, "__new__"):
            return None
        decorators = [_last_name(decorator) for decorator in node.decorator_list]
        if decorators == ["dataclass"] and _has_init(node.decorator_list[0]):
            return _dataclass_fields(lineage[index:])
        if decorators:
            return None
    return Arguments((), (), takes_any=False)


def _signature(args: ast.arguments) -> Arguments:
    positional = [*args.posonlyargs, *args.args]
    num_without_default = len(positional) - len(args.defaults)
    required = [arg.arg for arg in positional[1:num_without_default]]
    required += [arg.arg for arg, default in zip(args.kwonlyargs, args.kw_defaults, strict=True) if default is None]
    by_keyword = [arg.arg for arg in positional[max(1, len(args.posonlyargs)) :]]
    legal = (*by_keyword, *(arg.arg for arg in args.kwonlyargs))
    return Arguments(legal, tuple(required), args.kwarg is not None)


def _dataclass_fields(lineage: list[ast.ClassDef | None]) -> Arguments | None:
    fields: dict[str, bool] = {}  # name -> whether it is required
    for node in reversed(lineage):
        if node is None:
            return None
        if not any(_last_name(decorator) == "dataclass" for decorator in node.decorator_list):
            continue
        for statement in node.body:
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                fields.pop(statement.target.id, None)
                if _is_field(statement):
                    fields[statement.target.id] = _is_required(statement.value)
    return Arguments(tuple(fields), tuple(name for name, required in fields.items() if required), takes_any=False)


def _is_field(statement: ast.AnnAssign) -> bool:
    written = ast.unparse(statement.annotation)
    is_argument = not any(word in written for word in ("ClassVar", "KW_ONLY"))
    return is_argument and (not isinstance(statement.value, ast.Call) or _has_init(statement.value))


def _is_required(value: ast.expr | None) -> bool:
    if isinstance(value, ast.Call) and _last_name(value) == "field":
        return not any(keyword.arg in ("default", "default_factory") for keyword in value.keywords)
    return value is None


def _has_init(call: ast.expr) -> bool:
    """Whether a call, of ``dataclass`` or ``field``, does not say ``init=False``."""
    keywords = call.keywords if isinstance(call, ast.Call) else []
    return not any(k.arg == "init" and isinstance(k.value, ast.Constant) and k.value.value is False for k in keywords)


def _method(node: ast.ClassDef, name: str) -> ast.FunctionDef | None:
    found = [child for child in _statements(node.body) if isinstance(child, ast.FunctionDef) and child.name == name]
    return found[-1] if found else None


def _last_name(node: ast.expr) -> str:
    """``Protocol`` of ``typing.Protocol[T]``, ``dataclass`` of ``dataclasses.dataclass(frozen=True)``."""
    while isinstance(node, ast.Call | ast.Subscript):
        node = node.func if isinstance(node, ast.Call) else node.value
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _statements(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a body, those under if, try and with included."""
    for statement in body:
        yield statement
        if isinstance(statement, ast.If | ast.Try | ast.With):
            handlers = [inner for handler in getattr(statement, "handlers", []) for inner in handler.body]
            inside = [
                *statement.body,
                *handlers,
                *getattr(statement, "orelse", []),
                *getattr(statement, "finalbody", []),
            ]
            yield from _statements(inside)


def _bound_names(statements: Iterable[ast.stmt]) -> Iterator[str]:
    for node in statements:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from ((alias.asname or alias.name).partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.Assign):
            yield from (name.id for target in node.targets for name in ast.walk(target) if isinstance(name, ast.Name))
        elif isinstance(node, ast.AnnAssign) and node.value is not None and isinstance(node.target, ast.Name):
            yield node.target.id


def _constants(node: ast.ClassDef) -> Iterator[tuple[str, object]]:
    for statement in _statements(node.body):
        if isinstance(statement, ast.Assign | ast.AnnAssign) and isinstance(statement.value, ast.Constant):
            for target in statement.targets if isinstance(statement, ast.Assign) else [statement.target]:
                if isinstance(target, ast.Name):
                    yield target.id, statement.value.value
