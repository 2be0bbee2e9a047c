"""Reading files that grow, are cut, replaced or still missing."""

from __future__ import annotations

import os
from pathlib import Path

from orchestrator.cli.tail import Tail, last_lines


def append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as stream:
        stream.write(text)


def test_a_missing_file_is_empty_and_may_appear_later(tmp_path: Path) -> None:
    tail = Tail(tmp_path / "log")
    assert tail.lines() == []
    append(tmp_path / "log", "one\ntwo\n")
    assert tail.lines() == ["one", "two"]
    assert tail.lines() == []


def test_a_line_without_its_end_waits_for_it(tmp_path: Path) -> None:
    tail = Tail(tmp_path / "log")
    append(tmp_path / "log", "one\ntw")
    assert tail.lines() == ["one"]
    append(tmp_path / "log", "o\n")
    assert tail.lines() == ["two"]


def test_the_unfinished_line_comes_when_asked_for(tmp_path: Path) -> None:
    tail = Tail(tmp_path / "log")
    append(tmp_path / "log", "one\n\ntw")
    assert tail.lines(with_unfinished=True) == ["one", "", "tw"]


def test_existing_lines_can_be_skipped(tmp_path: Path) -> None:
    append(tmp_path / "log", "old\n")
    tail = Tail(tmp_path / "log", skip_existing=True)
    append(tmp_path / "log", "new\n")
    assert tail.lines() == ["new"]


def test_a_cut_file_is_not_repeated(tmp_path: Path) -> None:
    path = tmp_path / "log"
    tail = Tail(path)
    append(path, "1\n2\n3\n")
    tail.lines()
    os.truncate(path, 2)
    assert tail.lines() == []
    append(path, "2 again\n")
    assert tail.lines() == ["2 again"]


def test_a_replaced_file_is_not_repeated(tmp_path: Path) -> None:
    path = tmp_path / "log"
    tail = Tail(path)
    append(path, "1\n2\n")
    tail.lines()
    append(tmp_path / "new", "1\n2\n3\n4\n")
    os.replace(tmp_path / "new", path)
    assert tail.lines() == []
    append(path, "5\n")
    assert tail.lines() == ["5"]


def test_bytes_that_are_no_text_are_shown_as_well_as_possible(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"a\xffb\n")
    assert Tail(tmp_path / "log").lines() == ["a�b"]


def test_last_lines(tmp_path: Path) -> None:
    path = tmp_path / "log"
    assert last_lines(path, 3) == []
    append(path, "")
    assert last_lines(path, 3) == []
    append(path, "".join(f"{number}\n" for number in range(50_000)))
    assert last_lines(path, 3) == ["49997", "49998", "49999"]
