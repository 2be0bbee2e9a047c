"""`orchestrator methods`: what a spec may name at each seam, what each needs, and which engines give it."""

from __future__ import annotations

from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.options import Json
from orchestrator.cli.output import aligned, emit, emit_json, paint
from orchestrator.core.errors import UsageError

if TYPE_CHECKING:
    from orchestrator.spec.methods_table import MethodRow

Name = Annotated[str | None, typer.Argument(metavar="[NAME]", help="Show this method in full.", show_default=False)]


def methods(name: Name = None, as_json: Json = False) -> None:
    """Print the methods that a spec may name, engine by engine.

    With a name: its arguments, their defaults, and what it requires of the engine.
    """
    from orchestrator.spec import methods_table
    from orchestrator.spec.problems import nearest

    rows = methods_table.methods(name)
    if name is not None and not rows:
        known = nearest(name, [row.name for row in methods_table.methods()])
        hint = f"did you mean {known}?" if known else "`orchestrator methods` lists them."
        raise UsageError(f"NAME: there is no method {name}; {hint}")
    if as_json:
        emit_json([asdict(row) for row in rows])
    elif name is None:
        _emit_overview(rows)
    else:
        emit("\n\n".join(_in_full(row) for row in rows))


def _emit_overview(rows: list[MethodRow]) -> None:
    for seam, group in groupby(rows, key=lambda row: row.seam):
        emit(paint(seam, "bold"))
        cells = [(f"  {row.name}", "default" if row.is_default else "", row.summary) for row in group]
        for line in aligned(cells):
            emit(line)
    _emit_engine_table([row for row in rows if row.lacking])
    emit("\n`orchestrator methods NAME` shows the arguments of one.")


def _emit_engine_table(rows: list[MethodRow]) -> None:
    """A line for each method, a column for each engine, whose variant stands below its name."""
    emit(f"\n{paint('method and engine', 'bold')}")
    names, variants = zip(*(title.rstrip(")").partition(" (")[::2] for title in rows[0].lacking), strict=True)
    cells = [
        # The last part of the path: the table has to fit a terminal.
        ("  " + row.seam.rpartition(".")[2], row.name, *("no" if lacks else "yes" for lacks in row.lacking.values()))
        for row in rows
    ]
    variants = tuple(variant.removeprefix("zero_") for variant in variants)
    for line in aligned([("", "", *names), ("", "", *variants), *cells]):
        emit(line)
    for row in rows:
        if row.requires:
            emit(f"  {row.name} requires {', '.join(row.requires)} of the engine")


def _in_full(row: MethodRow) -> str:
    lines = [f"{paint(row.name, 'bold')}  ({row.seam}{', the default' if row.is_default else ''})", row.summary]
    lines += [f"{title} provides: {', '.join(names)}" for title, names in row.provides.items()]
    lines += [f"requires of the engine: {', '.join(row.requires)}"] if row.requires else []
    lines += [f"{title} lacks: {', '.join(names)}" for title, names in row.lacking.items() if names]
    lines.append("arguments:" if row.arguments else "no arguments")
    cells = [
        (f"  {argument.name}", "required" if argument.default is None else f"= {argument.default}", argument.type)
        for argument in row.arguments
    ]
    for line, argument in zip(aligned(cells) if cells else [], row.arguments, strict=True):
        lines += [line, f"      {argument.description}"]
    return "\n".join(lines)
