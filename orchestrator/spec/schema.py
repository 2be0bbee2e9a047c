"""The JSON schema of a job spec as a person writes it, for editors; the command line checks more than a schema can."""

from __future__ import annotations

import copy
from typing import Any

from orchestrator.spec.describe import definitions
from orchestrator.spec.job import JobSpec, ScriptJobSpec
from orchestrator.spec.seams import seams

SCHEMA_ID = "urn:large-batch-orchestrator:job-spec:1"
_BASE = {
    "anyOf": [{"type": "string", "minLength": 1}, {"type": "null"}],
    "default": None,
    "description": "Another spec to start from, relative to this file; sections merge, lists replace, this file wins.",
}


def job_schema() -> dict[str, Any]:
    """Return the schema (draft 2020-12) with a description and default for every field.

    The root accepts any part of a spec, because `base` may supply the rest; without `base` the whole is required,
    which is another one with a script than with a recipe.
    """
    whole = _as_written(copy.deepcopy(definitions()))
    partial = {f"Partial{name}": _partial(node) for name, node in whole.items()}
    with_recipe, with_script = partial.pop("PartialJobSpec"), partial.pop("PartialScriptJobSpec")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_ID,
        **with_recipe,
        "description": "One job, with a recipe or with a script.",
        "properties": with_recipe["properties"] | {"script": with_script["properties"]["script"]},
        "if": {"required": ["base"], "properties": {"base": {"type": "string"}}},
        "else": {
            "if": {"required": ["script"]},
            "then": {"$ref": "#/$defs/ScriptJobSpec"},
            "else": {"$ref": "#/$defs/JobSpec"},
        },
        "$defs": whole | partial,
    }


def _as_written(nodes: dict[str, Any]) -> dict[str, Any]:
    """Allow what loading adds to the types: `base`, no name, methods by name alone or with the default's name."""
    for kind in (JobSpec, ScriptJobSpec):
        nodes[kind.__name__]["properties"]["base"] = _BASE
        nodes[kind.__name__]["required"].remove("name")
    for seam in seams().values():
        for method in seam.methods.values() if seam.default else ():
            nodes[method.__name__]["required"].remove("name")
    for path, seam in seams().items():
        alone = [name for name, method in seam.methods.items() if not _needs_arguments(method)]
        for node in _nodes_at(nodes, path):
            _allow_name_alone(node, alone)
        if path == "schedule":
            of_a_phase, _null = nodes["Phase"]["properties"]["schedule"]["anyOf"]
            _allow_name_alone(of_a_phase, alone)
    return nodes


def _needs_arguments(method: Any) -> bool:
    return any(field.is_required() for name, field in method.model_fields.items() if name != "name")


def _nodes_at(nodes: dict[str, Any], path: str) -> list[Any]:
    """Where a method is chosen: one place, or one in each method that leaves something to another."""
    sections, (*parents, key) = [nodes["JobSpec"]], path.split(".")
    for parent in parents:
        found = [section["properties"][parent] for section in sections if parent in section["properties"]]
        references = [member["$ref"] for node in found for member in (node, *node.get("anyOf", ())) if "$ref" in member]
        sections = [nodes[reference.removeprefix("#/$defs/")] for reference in references]
    found = [section["properties"][key] for section in sections if key in section["properties"]]
    return [node.get("items") or (node["anyOf"][0] if "anyOf" in node else node) for node in found]


def _allow_name_alone(node: Any, names: list[str]) -> None:
    node.pop("discriminator", None)
    configurations = node.pop("oneOf", None) or [{"$ref": node.pop("$ref")}]
    node["anyOf"] = [{"enum": names}, *configurations]


def _partial(node: Any) -> Any:
    """Return a schema that requires nothing, and refers to such schemas."""
    if isinstance(node, list):
        return [_partial(item) for item in node]
    if not isinstance(node, dict):
        return copy.deepcopy(node)
    partial = {
        key: _partial(value) for key, value in node.items() if not (key == "required" and isinstance(value, list))
    }
    if isinstance(partial.get("$ref"), str):
        partial["$ref"] = partial["$ref"].replace("#/$defs/", "#/$defs/Partial")
    return partial
