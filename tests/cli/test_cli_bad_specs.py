"""Every bad spec, through `check` and through `run`: exit code 2, the field named, nothing left behind."""

from pathlib import Path

import pytest
from spec.bad_specs import BAD_SPECS, BadSpec

from orchestrator.spec.problems import on_one_line

PROCESSES = [bad for bad in BAD_SPECS if bad.id in (
    "empty file", "10 MB file", "tab indentation", "misspelt argument", "impossible batch", "missing data file",
)]  # fmt: skip


def overrides_of(bad: BadSpec) -> list[str]:
    return [argument for override in bad.overrides for argument in ("--set", override)]


def refuse(answer, bad: BadSpec) -> None:
    """One message on stderr that names the field and what is wrong; no traceback."""
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("error: ")
    assert on_one_line(bad.path)[:100] in answer.err
    assert bad.message in answer.err
    assert "Traceback" not in answer.err
    assert "is a bug" not in answer.err


@pytest.mark.parametrize("bad", BAD_SPECS, ids=lambda bad: bad.id)
def test_check_and_run_refuse(bad: BadSpec, cli, tmp_path: Path, storage: Path) -> None:
    file = bad.write(tmp_path)
    refuse(cli("check", file, *overrides_of(bad)), bad)
    refuse(cli("run", file, "--storage", storage, *overrides_of(bad)), bad)
    assert not storage.exists()


@pytest.mark.parametrize("bad", PROCESSES, ids=lambda bad: bad.id)
def test_processes_refuse(bad: BadSpec, command, tmp_path: Path, storage: Path) -> None:
    file = bad.write(tmp_path)
    refuse(command("check", file, *overrides_of(bad)), bad)
    refuse(command("run", file, "--storage", storage, *overrides_of(bad)), bad)
    assert not storage.exists()


def test_the_processes_are_all_there() -> None:
    assert len(PROCESSES) == 6


@pytest.mark.parametrize("name", ["plan", "submit"])
def test_plan_and_submit_refuse_as_well(name: str, cli, tmp_path: Path, storage: Path) -> None:
    bad = BAD_SPECS[0]
    refuse(cli(name, bad.write(tmp_path), "--storage", storage), bad)
    assert not storage.exists()
