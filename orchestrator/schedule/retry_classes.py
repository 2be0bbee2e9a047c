"""Which cause a failure counts under where the spec has retry classes: an attempt's notes and logs say it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.core.values import Failure
from orchestrator.spec.retry_classes import RetryClass

TAIL_BYTES = 65536


@dataclass(frozen=True, slots=True)
class _Evidence:
    """One process that failed, and all that a pattern sees of it."""

    failure: Failure
    text: str


def classified(failure: Failure, classes: Sequence[RetryClass], logs: Path) -> Failure:
    """The failure that the first fitting class explains an attempt with, under that class's cause.

    Args:
        failure: what explains the attempt without classes; comes back unchanged where none fits.
        classes: of the spec, in their order.
        logs: folder of the attempt's logs, with the notes ``failure_<process>.json`` of those that could leave one.
    """
    if not classes or failure.cause == "diverged":
        return failure
    evidence = [_Evidence(failure, _seen(failure, _own_log(failure, logs))), *_other_evidence(failure, logs)]
    for number, one in enumerate(classes):
        for process in evidence:
            if _fits(one, process):
                return replace(process.failure, cause=one.cause, told_by=f"retries.classes.{number}")
    return failure


def _fits(one: RetryClass, process: _Evidence) -> bool:
    if one.exit_codes is not None and process.failure.exit_code not in one.exit_codes:
        return False
    return one.pattern is None or re.search(one.pattern, process.text, re.MULTILINE) is not None


def _own_log(failure: Failure, logs: Path) -> Path | None:
    return None if failure.rank is None else logs / f"rank_{failure.rank}.log"


def _other_evidence(failure: Failure, logs: Path) -> Iterator[_Evidence]:
    """Every other process that left a note, in the order in which they failed."""
    own_log = _own_log(failure, logs)
    for note in sorted(logs.glob("failure_*.json"), key=lambda path: path.stat().st_mtime_ns):
        log = note.with_name(f"{note.stem.removeprefix('failure_')}.log")
        if log == own_log:
            continue
        role, _, number = log.stem.partition("_")
        rank = int(number) if role == "rank" else None
        other = Failure(**json.loads(note.read_text(encoding="utf-8")), rank=rank)
        if other.cause != "diverged":
            yield _Evidence(other, _seen(other, log))


def _seen(failure: Failure, log: Path | None) -> str:
    return "\n".join((failure.message, failure.details, "" if log is None else _tail(log)))


def _tail(log: Path) -> str:
    if not log.exists():
        return ""
    with log.open("rb") as stream:
        stream.seek(max(0, stream.seek(0, os.SEEK_END) - TAIL_BYTES))
        return stream.read().decode(errors="replace")
