"""Writes docs/spec.md, the reference of the job spec, from the types. ``--check`` only says whether it is current."""

from __future__ import annotations

import argparse
import inspect
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from orchestrator.spec.accelerate_keys import ACCELERATE_KEYS
from orchestrator.spec.deepspeed_keys import DEEPSPEED_KEYS
from orchestrator.spec.foreign_keys import Keys, Refused
from orchestrator.spec.job import AnyJobSpec, JobSpec, ScriptJobSpec
from orchestrator.spec.methods.phases import Phase
from orchestrator.spec.methods_table import Argument, MethodRow, arguments, methods
from orchestrator.spec.schema import job_schema
from orchestrator.spec.seams import items_in, seams, sections_in
from orchestrator.spec.section import Method, Section

TARGET = Path(__file__).with_name("spec.md")
INTRODUCTION = """\
# The job spec

<!-- Written by docs/generate.py from orchestrator/spec. Edit the docstrings there, then run `make docs`. -->

A spec is one YAML 1.2 file in the folder of its recipe or script. The shortest one that runs:

```yaml
recipe:
  target: recipe.py:Digits
train:
  steps: 300
```

- Values are taken from `--set path=value`, else from the file, else from the file that its `base` names, else from the
  defaults below.
- `base: ../bases/cpu.yaml` names a file relative to this one; it may have a base itself. Sections merge, lists replace,
  and a section that names another method (`optimizer`, `engine`, ...) replaces the base's whole section. `null` takes
  an inherited value back. What a base says of the recipe is relative to the folder of the spec, not of the base.
- A method's arguments stand beside its `name`; `engine: ddp` is short for `engine: {name: ddp}`, and arguments without
  a name are those of the default method.
- Unknown keys, values of the wrong type, impossible combinations and files that do not exist are errors. All are
  reported together, before anything starts: `orchestrator check SPEC`.
- `script: {path: train.py}` in place of `recipe` runs a script on every worker: see [script_mode.md](script_mode.md).
- YAML 1.2: `yes` and `on` are strings, `1e-6` is a number; a date is a string. Tags, duplicate keys, merge keys (`<<`),
  `.inf` and `.nan` are errors.
"""


def render() -> str:
    """Return the text of docs/spec.md."""
    parts = [INTRODUCTION, "## All sections\n", _table(_root_fields(JobSpec))]
    parts += ["## All sections of a job with a script\n", _table(_root_fields(ScriptJobSpec))]
    for name, field in (JobSpec.model_fields | ScriptJobSpec.model_fields).items():
        sections = sections_in(field.annotation)
        if name in seams():
            parts += _seam(name, field.description)
        elif sections:
            parts += _section(name, sections[0])
            if name == "trials":
                parts += _inner_sections(name, sections[0])
        elif name == "then":
            parts += _phase(name)
    parts += _configuration("deepspeed", DEEPSPEED_KEYS)
    parts += _configuration("accelerate", ACCELERATE_KEYS)
    return "\n".join(parts)


def _root_fields(kind: type[AnyJobSpec]) -> Iterator[Argument]:
    """The fields of a root as a person writes them: linked to their sections, with `base`, and a name by default."""
    for argument in arguments(kind):
        if sections_in(kind.model_fields[argument.name].annotation):
            default = argument.default and "see there"
            yield replace(argument, name=f"[{argument.name}](#{argument.name})", type="a section", default=default)
        else:
            default = "the folder's name" if argument.name == "name" else f"`{argument.default}`"
            yield replace(argument, name=f"`{argument.name}`", default=default)
    yield Argument("`base`", "null or a path", "`null`", job_schema()["properties"]["base"]["description"])


def _section(path: str, section: type[Section]) -> Iterator[str]:
    yield f"## {path}\n"
    yield f"{_docstring(section)}\n"
    yield _section_table(arguments(section))
    for name, field in section.model_fields.items():
        if f"{path}.{name}" in seams():
            yield from _seam(f"{path}.{name}", field.description)
        for item in items_in(field.annotation):
            if not issubclass(item, Method):
                yield from _section(f"{path}.{name}[]", item)


def _inner_sections(path: str, section: type[Section]) -> Iterator[str]:
    """The sections in a section, and those in them."""
    for name, field in section.model_fields.items():
        for inner in sections_in(field.annotation):
            yield from _section(f"{path}.{name}", inner)
            yield from _inner_sections(f"{path}.{name}", inner)


def _phase(path: str) -> Iterator[str]:
    """What an item of the list of further phases says; its schedules are those of the first phase."""
    yield from _section(f"{path}[]", Phase)
    for name, field in Phase.model_fields.items():
        for section in sections_in(field.annotation):
            if not issubclass(section, Method):
                yield from _section(f"{path}[].{name}", section)


def _docstring(section: type[Section]) -> str:
    return " ".join((inspect.getdoc(section) or "").split())


def _seam(path: str, description: str | None) -> Iterator[str]:
    yield f"## {path}\n"
    default = seams()[path].default
    yield f"{description} Without a name it is `{default}`.\n" if default else f"{description}\n"
    for method in (row for row in methods() if row.seam == path):
        yield from _method(method)
    if path == "engine":
        yield from _engine_table()
    nested = {
        f"{path}.{name}": (field.description, section)
        for configuration in seams()[path].methods.values()
        for name, field in configuration.model_fields.items()
        for section in sections_in(field.annotation)
    }
    for inner, (text, section) in nested.items():
        yield from _seam(inner, text) if inner in seams() else _section(inner, section)


def _engine_table() -> Iterator[str]:
    yield "### Which methods each engine trains with\n"
    rows = [row for row in methods() if row.lacking]
    yield f"| method | {' | '.join(rows[0].lacking)} |"
    yield "|---" * (1 + len(rows[0].lacking)) + "|"
    for row in rows:
        cells = (f"no: lacks {', '.join(names)}" if names else "yes" for names in row.lacking.values())
        yield f"| `{row.seam}`: `{row.name}` | {' | '.join(cells)} |"
    yield ""


def _configuration(engine: str, keys: Keys) -> Iterator[str]:
    """What may be said in the configuration of another library, key by key."""
    yield f"## The config of engine {engine}\n"
    yield 'Every key may be left out, null or "auto"; keys that are not here are errors.\n'
    yield "| key | legal |\n|---|---|"
    yield from (f"| `{path}` | {legal} |" for path, legal in _legal_values(keys, ""))
    yield ""


def _legal_values(keys: Keys, prefix: str) -> Iterator[tuple[str, str]]:
    for key, entry in keys.items():
        path = f"{prefix}{key}"
        if isinstance(entry, Mapping):
            yield from _legal_values(entry, f"{path}.")
        elif isinstance(entry, Refused):
            harmless = ", ".join(f"`{json.dumps(value)}`" for value in entry.harmless)
            yield path, f"{harmless}; otherwise refused: {entry.reason}" if harmless else f"refused: {entry.reason}"
        else:
            yield path, entry.legal


def _method(method: MethodRow) -> Iterator[str]:
    yield f"### {method.seam}: {method.name}\n"
    yield f"{_docstring(seams()[method.seam].methods[method.name])}\n"
    if method.requires:
        yield f"Requires of the engine: {', '.join(method.requires)}.\n"
    for title, provided in method.provides.items():
        yield f"{title} provides: {', '.join(provided)}.\n"
    if method.arguments:
        yield _section_table(method.arguments)


def _section_table(rows: Iterable[Argument]) -> str:
    return _table(
        replace(row, name=f"`{row.name}`", default=None if row.default is None else f"`{row.default}`") for row in rows
    )


def _table(rows: Iterable[Argument]) -> str:
    lines = ["| field | legal | default | meaning |", "|---|---|---|---|"]
    for row in rows:
        cells = (row.name, row.type, row.default or "required", row.description)
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    """Write the reference; with ``--check`` return 1 where the file is not what would be written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit code 1 where the file is stale")
    is_check = parser.parse_args(argv).check
    text = render()
    if not is_check:
        TARGET.write_text(text, encoding="utf-8")
    elif not TARGET.exists() or TARGET.read_text(encoding="utf-8") != text:
        print(f"{TARGET.name} is not current; run make docs", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
