"""Safe reading of one YAML 1.2 document into plain values, with the line of every key. Knows nothing of job specs."""

from __future__ import annotations

import math
import os
import warnings
from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from orchestrator.spec.problems import Problem, SpecError, dotted, on_one_line, shorten, shown

MAX_BYTES = 1 << 20
MAX_NODES = 20_000
"""Most keys and values, counted after aliases are expanded."""
MAX_DEPTH = 50

_PREFIX = "tag:yaml.org,2002:"
# What YAML 1.2's core schema has no type for (dates, ``=``) stays the text that was written.
_TEXT_TAGS = frozenset(_PREFIX + name for name in ("str", "timestamp", "value", "merge"))
_SCALAR_TAGS = frozenset(_PREFIX + name for name in ("null", "bool", "int", "float")) | _TEXT_TAGS
_PLAIN_TAGS = {ScalarNode: _SCALAR_TAGS, SequenceNode: {_PREFIX + "seq"}, MappingNode: {_PREFIX + "map"}}
_LEFT_OUT = object()


@dataclass(frozen=True)
class YamlSource:
    """One YAML document as plain dicts, lists and scalars."""

    text: str
    """The file's text."""
    data: Any
    """The value of the document; what `problems` name is left out of it."""
    lines: dict[str, int]
    """Line of every key and list item, from 1, by dotted path."""
    problems: tuple[Problem, ...]
    """What is wrong with single keys and values."""


def read_yaml(path: str | os.PathLike[str], file: str) -> YamlSource:
    """Read a file whose root is a mapping.

    Args:
        path: The file.
        file: How problems name the file.

    Raises:
        SpecError: If the file is absent, unreadable, too large, not UTF-8, not YAML or not a mapping.
    """
    text = read_text(path, file)
    source = parse_yaml(text, file)
    if source.data is None and not source.problems:
        raise SpecError([Problem(file, "", "", "is empty", "a mapping of keys and values")])
    if not isinstance(source.data, dict) and source.data is not _LEFT_OUT:
        found = "a list" if isinstance(source.data, list) else "a single value"
        raise SpecError([Problem(file, "", "", f"is {found}", "a mapping of keys and values", line=1)])
    if source.data is _LEFT_OUT:
        raise SpecError(source.problems)
    return source


def parse_yaml(text: str, file: str) -> YamlSource:
    """Read a text of one YAML document, whatever its root.

    Raises:
        SpecError: If the text is not one YAML document.
    """
    root = _compose(text, file)
    reader = _Reader(file)
    data = None if root is None else reader.read(root, ())
    return YamlSource(text, data, reader.lines, tuple(reader.problems))


def read_text(path: str | os.PathLike[str], file: str) -> str:
    """Read a text file of at most `MAX_BYTES`.

    Args:
        path: The file.
        file: How problems name the file.

    Raises:
        SpecError: If the file is absent, unreadable, too large or not UTF-8.
    """
    if not os.path.isfile(path):
        message = "is not a regular file" if os.path.exists(path) else "no such file"
        raise SpecError([Problem(file, "", "", message)])
    try:
        with open(path, "rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise SpecError([Problem(file, "", "", f"cannot be read: {error.strerror}")]) from None
    if len(content) > MAX_BYTES:
        raise SpecError([Problem(file, "", "", "is too large for a spec", f"at most {MAX_BYTES:,} bytes")])
    try:
        return content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        message = f"is not UTF-8: byte 0x{content[error.start]:02x} at offset {error.start}"
        line = content.count(b"\n", 0, error.start) + 1
        raise SpecError([Problem(file, "", "", message, line=line)]) from None


class _TooLargeError(MarkedYAMLError):
    """More nodes than a spec may have."""


class _BoundedComposer(Composer):
    """Stops at `MAX_NODES`: a megabyte of short list items would take half a minute."""

    num_nodes = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.num_nodes += 1
        if self.num_nodes > MAX_NODES:
            mark = self.parser.peek_event().start_mark
            raise _TooLargeError(problem=f"has more than {MAX_NODES:,} keys and values", problem_mark=mark)
        return super().compose_node(parent, index)


def _compose(text: str, file: str) -> Node | None:
    yaml = YAML(typ="safe", pure=True)
    yaml.Composer = _BoundedComposer
    yaml.max_depth = MAX_DEPTH
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a reused anchor is legal YAML
            root: Node | None = yaml.compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = None if mark is None else mark.line + 1
        raise SpecError([Problem(file, "", "", _syntax_message(error), line=line)]) from None
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        message = f"has a character that YAML does not allow: #x{error.character:04x}"
        raise SpecError([Problem(file, "", "", message, line=line)]) from None
    except (YAMLError, ValueError, OverflowError, AttributeError, IndexError, AssertionError) as error:
        # The scanner lets some bare errors through, as for the escape "\UFFFFFFFF".
        message = f"is not valid YAML: {shorten(on_one_line(str(error)), 120)}"
        raise SpecError([Problem(file, "", "", message)]) from None
    if yaml.resolver.processing_version != (1, 2):
        raise SpecError([Problem(file, "", "", "asks for another YAML version by a %YAML directive", "YAML 1.2")])
    return root


def _syntax_message(error: MarkedYAMLError) -> str:
    problem = error.problem or ""
    if isinstance(error, _TooLargeError):
        return problem
    if "maximum depth" in problem:
        return f"is nested more than {MAX_DEPTH} levels deep"
    if "another document" in problem:
        return "has several documents; a spec is one, without a line of ---"
    return f"is not valid YAML: {', '.join(part for part in (error.context, problem) if part)}"


@dataclass
class _Reader:
    """Turns nodes into values; every fault is a problem, and the faulty entry is left out."""

    file: str
    lines: dict[str, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    num_nodes: int = 0
    open_nodes: list[Node] = field(default_factory=list)

    def read(self, node: Node, path: tuple[str | int, ...]) -> Any:
        """Return the node's value, or `_LEFT_OUT`."""
        line = node.start_mark.line + 1
        self.lines.setdefault(dotted(path), line)
        self.num_nodes += 1
        if self.num_nodes > MAX_NODES:
            message = f"has more than {MAX_NODES:,} keys and values once its aliases are expanded"
            raise SpecError([Problem(self.file, "", "", message, line=line)])
        # The composer bounds the depth as written; aliases can stack it up again.
        if len(path) > MAX_DEPTH:
            message = f"is nested more than {MAX_DEPTH} levels deep once its aliases are expanded"
            raise SpecError([Problem(self.file, "", "", message, line=line)])
        if any(node is open_node for open_node in self.open_nodes):
            return self._fault(node, path, "an alias that contains itself")
        if str(node.tag) not in _PLAIN_TAGS[type(node)]:
            tag = str(node.tag).replace(_PREFIX, "!!")
            return self._fault(node, path, f"tag {shorten(tag)} would construct an object", "plain YAML values")
        self.open_nodes.append(node)
        try:
            return self._value(node, path)
        finally:
            self.open_nodes.pop()

    def _value(self, node: Node, path: tuple[str | int, ...]) -> Any:
        if isinstance(node, ScalarNode):
            return self._scalar(node, path)
        if isinstance(node, SequenceNode):
            items = [self.read(item, (*path, index)) for index, item in enumerate(node.value)]
            return [item for item in items if item is not _LEFT_OUT]
        assert isinstance(node, MappingNode)
        return self._mapping(node, path)

    def _mapping(self, node: MappingNode, path: tuple[str | int, ...]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        first_lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            key = self._key(key_node, path)
            if key is None:
                continue
            line = key_node.start_mark.line + 1
            if key in first_lines:
                self._fault(key_node, (*path, key), f"duplicate key, first on line {first_lines[key]}", value="")
                continue
            first_lines[key] = self.lines[dotted((*path, key))] = line
            value = self.read(value_node, (*path, key))
            if value is not _LEFT_OUT:
                values[key] = value
        return values

    def _key(self, node: Node, path: tuple[str | int, ...]) -> str | None:
        if str(node.tag) == _PREFIX + "merge":
            self._fault(node, (*path, "<<"), "merge keys are not YAML 1.2", "base: FILE for shared values", value="")
            return None
        if not isinstance(node, ScalarNode) or str(node.tag) not in _TEXT_TAGS:
            written = shown(node.value) if isinstance(node, ScalarNode) else "a list or mapping"
            self._fault(node, path, f"key {written} is not a string", "a string; put the key in quotes", value="")
            return None
        key = self._scalar(node, path)
        return key if isinstance(key, str) else None

    def _scalar(self, node: ScalarNode, path: tuple[str | int, ...]) -> Any:
        kind, text = str(node.tag), node.value
        if kind in _TEXT_TAGS:
            if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
                return self._fault(node, path, "has a null character or half a surrogate pair")
            return text
        try:
            value = _CONSTRUCTORS[kind](text)
        except (ValueError, KeyError):
            return self._fault(node, path, f"not a legal {kind.removeprefix(_PREFIX)}")
        if isinstance(value, float) and not math.isfinite(value):
            return self._fault(node, path, "not a finite number", value=text)
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            return self._fault(node, path, "outside the range of 64-bit integers", value=text)
        return value

    def _fault(
        self, node: Node, path: tuple[str | int, ...], message: str, legal: str = "", value: str | None = None
    ) -> Any:
        if value is None:
            value = shown(node.value) if isinstance(node, ScalarNode) else ""
        line = node.start_mark.line + 1
        self.problems.append(Problem(self.file, dotted(path), shorten(value), message, legal, line=line))
        return _LEFT_OUT


def _integer(text: str) -> int:
    digits = text.replace("_", "").lower()
    unsigned = digits.lstrip("+-")
    return int(digits, 0 if unsigned[:2] in ("0b", "0o", "0x") else 10)


_CONSTRUCTORS: dict[str, Any] = {
    _PREFIX + "null": lambda text: None,
    _PREFIX + "bool": lambda text: {"true": True, "false": False}[text.lower()],
    _PREFIX + "int": _integer,
    # YAML writes .inf and .nan, Python inf and nan.
    _PREFIX + "float": lambda text: float(text.replace("_", "").lower().replace(".inf", "inf").replace(".nan", "nan")),
}
