"""What is legal at a place of the spec, in words, derived from the JSON schema of the types."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from pydantic import TypeAdapter

from orchestrator.spec.job import AnyJobSpec, JobSpec
from orchestrator.spec.problems import dotted, nearest

Node = dict[str, Any]
"""One node of a JSON schema."""


@cache
def definitions() -> dict[str, Node]:
    """Return the JSON schema of every section, the roots included, by the name of its class."""
    schemas: dict[str, Node] = TypeAdapter(AnyJobSpec).json_schema()["$defs"]
    return schemas


def resolved(node: Node) -> Node:
    """Return the node that a reference stands for, or the node itself."""
    reference = node.get("$ref")
    if reference is None:
        return node
    return definitions()[reference.removeprefix("#/$defs/")]


def alternatives(node: Node) -> list[Node]:
    """Return the members of a union, references resolved; a plain node is its only member."""
    node = resolved(node)
    return [resolved(member) for member in node.get("oneOf") or node.get("anyOf") or [node]]


def locate(location: tuple[str | int, ...], kind: type[AnyJobSpec]) -> tuple[tuple[str | int, ...], Node]:
    """Return the path as the user wrote it, and what the schema says there, for a location from pydantic.

    pydantic puts the chosen member of a union into its locations; the user has not written that.
    """
    path: list[str | int] = []
    around: Node = {}
    node = definitions()[kind.__name__]
    parts = iter(location)
    for part in parts:
        key: str | int | None = part
        node = _without_null(node)
        if "discriminator" in node:
            node = resolved({"$ref": node["discriminator"]["mapping"][part]})
            continue
        if part == "[key]":
            return tuple(path), _key_schema(around)
        members = [member for member in alternatives(node) if member.get("type") != "null"]
        if len(members) > 1:
            key = next(parts, None)
        if key is None:
            break
        path.append(key)
        around, node = node, resolved(_inside(members, key))
    return tuple(path), node


def _without_null(node: Node) -> Node:
    """A node that may be null as what it is otherwise; pydantic's locations do not tell the two apart."""
    members = [member for member in node.get("anyOf", []) if member.get("type") != "null"]
    return resolved(members[0]) if len(members) == 1 else node


def _inside(members: list[Node], part: str | int) -> Node:
    """The schema of one key or item of the first member that can hold it; anything where none says more."""
    for member in members:
        if isinstance(part, int):
            items = member.get("prefixItems", [])
            found = items[part] if part < len(items) else member.get("items")
        else:
            by_pattern = next(iter(member.get("patternProperties", {}).values()), None)
            found = member.get("properties", {}).get(part) or by_pattern or member.get("additionalProperties")
        if isinstance(found, dict):
            return found
    return {}


def _key_schema(mapping: Node) -> Node:
    """What the keys of a mapping must be."""
    return {"type": "string", "pattern": next(iter(mapping["patternProperties"])), **mapping["propertyNames"]}


def expected(node: Node) -> str:
    """Return in words what a node accepts: ``null or an integer >= 1``."""
    node = resolved(node)
    members = alternatives(node)
    if len(members) > 1:
        if "discriminator" in node:
            return "a method's name, or a mapping with its name and arguments"
        # null first: at the end it would read as one more item of what stands before it.
        members = sorted(members, key=lambda member: member.get("type") != "null")
        return " or ".join(expected(member) for member in members)
    node = members[0]
    if "const" in node or "enum" in node:
        return ", ".join(str(name) for name in choices(node))
    if node.get("type") in _WORDS:
        return _WORDS[node["type"]](node)
    return {"boolean": "true or false", "null": "null"}.get(node.get("type", ""), "any value")


def is_method(node: Node) -> bool:
    """Return whether a node is the configuration of one method."""
    return "const" in node.get("properties", {}).get("name", {})


def choices(node: Node) -> list[Any]:
    """Return the values of an enumeration, or the method names of a union; empty where it is neither."""
    node = _without_null(node)
    if "enum" in node:
        return list(node["enum"])
    if "const" in node:
        return [node["const"]]
    return list(node.get("discriminator", {}).get("mapping", {}))


def json_types(node: Node) -> set[str]:
    """Return the JSON types that a node accepts."""
    return {str(member["type"]) for member in alternatives(node) if "type" in member}


def _number(node: Node) -> str:
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    limits = " and ".join(f"{sign} {node[key]}" for key, sign in signs.items() if key in node)
    word = "an integer" if node["type"] == "integer" else "a number"
    return f"{word} {limits}" if limits else word


def _text(node: Node) -> str:
    pattern = f" of the form {node['pattern']}" if "pattern" in node else ""
    examples = f", such as {' or '.join(node['examples'])}" if "examples" in node else ""
    shortest = " that is not empty" if node.get("minLength") else ""
    return f"a string{shortest}{pattern}{examples}"


def _list(node: Node) -> str:
    if node.get("maxItems") == 0:
        return "an empty list"
    items = node.get("prefixItems")
    if items:
        return f"a list of {len(items)}, each {expected(items[0])}"
    return f"a list, each item {expected(node.get('items', {}))}"


def _mapping(node: Node) -> str:
    if node.get("maxProperties") == 0:
        return "an empty mapping"
    if "properties" in node:
        shorthand = f"{node['properties']['name']['const']}, or " if is_method(node) else ""
        return f"{shorthand}a mapping of {', '.join(node['properties'])}"
    values = next(iter(node.get("patternProperties", {}).values()), None) or node.get("additionalProperties")
    return f"a mapping, each value {expected(values)}" if isinstance(values, dict) else "a mapping"


_WORDS: dict[str, Callable[[Node], str]] = {
    "integer": _number,
    "number": _number,
    "string": _text,
    "array": _list,
    "object": _mapping,
}


@cache
def field_paths(kind: type[AnyJobSpec] = JobSpec) -> tuple[str, ...]:
    """Return the dotted path of every field of a kind of spec, shortest first."""
    return tuple(sorted(set(_paths(definitions()[kind.__name__], ())), key=lambda path: (path.count("."), path)))


def _paths(node: Node, path: tuple[str, ...]) -> Iterator[str]:
    for member in alternatives(node):
        for name, inner in member.get("properties", {}).items():
            yield dotted((*path, name))
            yield from _paths(inner, (*path, name))


def nearest_field(key: str, siblings: list[str], kind: type[AnyJobSpec]) -> str:
    """Return the sibling most like an unknown key, else the path of a field of exactly that name elsewhere."""
    elsewhere = (path for path in field_paths(kind) if path.rpartition(".")[2] == key and "." in path)
    return nearest(key, siblings) or next(elsewhere, "")
