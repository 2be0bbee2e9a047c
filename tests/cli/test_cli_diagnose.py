"""What `orchestrator doctor` sees of this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.cli import diagnose
from orchestrator.cli.diagnose import OK, PROBLEM, TESTED_VERSIONS, WARNING

ROOT = Path(__file__).parents[2]


def test_tested_versions_are_those_of_the_constraints() -> None:
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line)
    assert {name: pinned[name] for name in TESTED_VERSIONS} == TESTED_VERSIONS


def test_a_version_that_was_tested_is_ok_whatever_its_build() -> None:
    assert diagnose.check_version("torch", TESTED_VERSIONS["torch"]).level == OK


def test_another_version_is_a_warning_with_the_command_that_mends_it() -> None:
    finding = diagnose.check_version("pydantic", "1.0")
    assert (finding.level, finding.mend) == (WARNING, "pip install 'pydantic==1.0'")
    assert "tested with 1.0" in finding.message


def test_a_missing_package_is_a_problem() -> None:
    finding = diagnose.check_version("no-such-package-anywhere", "1.0")
    assert (finding.level, finding.message) == (PROBLEM, "not installed")


def test_this_python_and_its_ray_are_in_order() -> None:
    assert diagnose.check_python().level == OK
    assert diagnose.check_ray_extras().level == OK


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def home_with_token(tmp_path: Path) -> Path:
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("a-token")
    return tmp_path


def test_no_token_and_no_mode_is_an_open_cluster(home: Path) -> None:
    assert diagnose.check_ray_token({}, home, has_cluster=True).level == OK


def test_a_token_that_no_client_sends_is_a_warning(home_with_token: Path) -> None:
    finding = diagnose.check_ray_token({}, home_with_token, has_cluster=True)
    assert (finding.level, finding.mend) == (WARNING, "export RAY_AUTH_MODE=token")
    assert "a-token" not in str(finding)


def test_a_token_that_is_sent_is_ok(home_with_token: Path) -> None:
    assert diagnose.check_ray_token({"RAY_AUTH_MODE": "token"}, home_with_token, has_cluster=True).level == OK


def test_token_mode_without_a_token_is_a_problem(home: Path) -> None:
    finding = diagnose.check_ray_token({"RAY_AUTH_MODE": "token"}, home, has_cluster=True)
    assert finding.level == PROBLEM
    assert "RAY_AUTH_TOKEN" in finding.mend


def test_a_token_path_that_names_no_file_is_a_problem(home: Path) -> None:
    finding = diagnose.check_ray_token({"RAY_AUTH_TOKEN_PATH": str(home / "nothing")}, home, has_cluster=True)
    assert finding.level == PROBLEM
    assert str(home / "nothing") in finding.message


def test_a_writable_storage_is_ok_and_not_made(tmp_path: Path) -> None:
    assert diagnose.check_storage(tmp_path / "a" / "b").level in (OK, WARNING)
    assert list(tmp_path.iterdir()) == []


def test_a_storage_below_a_file_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    finding = diagnose.check_storage(tmp_path / "file" / "sub")
    assert finding.level == PROBLEM
    assert "cannot be written" in finding.message


def test_a_full_disk_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnose, "LITTLE_SPACE_BYTES", 2**62)
    assert diagnose.check_storage(tmp_path).level == WARNING


def test_the_levels_of_this_machine_are_all_known(tmp_path: Path) -> None:
    for finding in diagnose.local_findings({}, tmp_path, has_cluster=False):
        assert finding.level in (OK, WARNING, PROBLEM)
        assert (finding.level == OK) == (finding.mend == "")
