"""Writes docs/spec.md, the reference of the job spec, from the types. ``--check`` only says whether it is current."""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from orchestrator.spec.job import JobSpec
from orchestrator.spec.methods_table import Argument, MethodRow, arguments, methods
from orchestrator.spec.schema import job_schema
from orchestrator.spec.seams import seams, sections_in
from orchestrator.spec.section import Section

TARGET = Path(__file__).with_name("spec.md")
INTRODUCTION = """\
# The job spec

<!-- Written by docs/generate.py from orchestrator/spec. Edit the docstrings there, then run `make docs`. -->

A spec is one YAML 1.2 file in the folder of its recipe. The shortest one that runs:

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
- YAML 1.2: `yes` and `on` are strings, `1e-6` is a number; a date is a string. Tags, duplicate keys, merge keys (`<<`),
  `.inf` and `.nan` are errors.
"""


def render() -> str:
    """Return the text of docs/spec.md."""
    parts = [INTRODUCTION, "## All sections\n", _table([*_root_fields()])]
    for name, field in JobSpec.model_fields.items():
        sections = sections_in(field.annotation)
        if name in seams():
            parts += _seam(name, field.description)
        elif sections:
            parts += _section(name, sections[0])
    return "\n".join(parts)


def _root_fields() -> Iterator[Argument]:
    """The fields of the root as a person writes them: linked to their sections, with `base`, and a name by default."""
    for argument in arguments(JobSpec):
        if sections_in(JobSpec.model_fields[argument.name].annotation):
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


def _docstring(section: type[Section]) -> str:
    return " ".join((inspect.getdoc(section) or "").split())


def _seam(path: str, description: str | None) -> Iterator[str]:
    yield f"## {path}\n"
    yield f"{description} Without a name it is `{seams()[path].default}`.\n"
    for method in (row for row in methods() if row.seam == path):
        yield from _method(method)
    nested = {
        f"{path}.{name}": section
        for configuration in seams()[path].methods.values()
        for name, field in configuration.model_fields.items()
        for section in sections_in(field.annotation)
    }
    for inner, section in nested.items():
        yield from _section(inner, section)


def _method(method: MethodRow) -> Iterator[str]:
    yield f"### {method.seam}: {method.name}\n"
    yield f"{_docstring(seams()[method.seam].methods[method.name])}\n"
    if method.requires:
        yield f"Requires of the engine: {', '.join(method.requires)}.\n"
    if method.provides:
        yield f"Provides: {', '.join(method.provides)}.\n"
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
