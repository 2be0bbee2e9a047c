"""`orchestrator doctor` as a person sees it."""

import json
from pathlib import Path

import pytest

NOBODY = "http://127.0.0.1:9"


def test_a_machine_in_order_is_0(cli, storage: Path) -> None:
    answer = cli("doctor", "--storage", storage)
    assert (answer.code, answer.err) == (0, "")
    assert "problem" not in answer.out
    assert f"sqlite:///{storage}/mlflow.db can be used" in answer.out
    assert not storage.exists()


def test_json_has_every_check(cli, storage: Path) -> None:
    findings = json.loads(cli("doctor", "--storage", storage, "--json").out)
    assert {"python", "torch", "ray", "ray[default]", "ray token", "storage", "mlflow server"} <= {
        finding["check"] for finding in findings
    }
    assert all(set(finding) == {"check", "level", "message", "mend"} for finding in findings)


def test_a_tracking_server_out_of_reach_is_5(cli, storage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", NOBODY)
    answer = cli("doctor", "--storage", storage)
    assert answer.code == 5
    assert "out of reach  mlflow server" in answer.out
    assert "MLFLOW_TRACKING_URI" in answer.out


def test_a_file_store_is_a_problem_with_its_remedy(cli, storage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "file:./mlruns")
    answer = cli("doctor", "--storage", storage)
    assert answer.code == 2
    assert "refuses since 3.13" in answer.out
    assert "sqlite:///" in answer.out


def test_a_cluster_out_of_reach_is_5(command, storage: Path) -> None:
    answer = command("doctor", "--storage", storage, "--address", NOBODY)
    assert answer.code == 5
    assert "out of reach  ray cluster" in answer.out


def test_an_address_that_is_no_dashboard_is_2(cli, storage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    answer = cli("doctor", "--storage", storage)
    assert answer.code == 2
    assert "head:6379 is not the dashboard's URL" in answer.out


def test_a_storage_that_cannot_be_written_is_2(cli, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    answer = cli("doctor", "--storage", tmp_path / "file" / "sub")
    assert answer.code == 2
    assert "cannot be written" in answer.out
