"""What `orchestrator doctor` and `recover` say of jobs without a driver and of a machine's limits."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli import diagnose_machine as machine
from orchestrator.cli.diagnose import OK, PROBLEM, WARNING, Finding
from orchestrator.cli.diagnose_jobs import job_findings
from orchestrator.core.run_directory import RunDirectory
from orchestrator.launch.prepare import prepare
from orchestrator.launch.processes import this_process
from orchestrator.spec.load import load_spec

NOBODY = "http://127.0.0.1:9"
Usage = namedtuple("Usage", "total used free")


@pytest.fixture(scope="module")
def dead() -> dict[str, Any]:
    """The record of a process that has ended."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return {**this_process(), "pid": child.pid}


@pytest.fixture
def job(spec: Path, storage: Path, dead: dict[str, Any]) -> Any:
    """Makes a running job whose driver is dead."""

    def make(name: str, kind: str = "local", **state: Any) -> RunDirectory:
        run = prepare(load_spec(spec, [f"name={name}"]), storage).run_directory
        backend = {"kind": kind, "address": NOBODY, "submission_id": f"{name}-a1"}
        run.update_state(**{"phase": "running", "backend": backend, "driver": dead, **state})
        return run

    return make


def test_no_job_is_in_order_and_no_storage_is_made(storage: Path) -> None:
    (finding,) = job_findings(storage, None)
    assert (finding.level, finding.mend) == (OK, "")
    assert not storage.exists()


def test_dead_local_jobs_and_damaged_records_are_told_with_what_to_do(job: Any, storage: Path) -> None:
    job("here")
    broken = job("broken")
    broken.state_file.write_text("{")
    stopping = job("stopping")
    stopping.stop_file.touch()
    before = {path: path.read_bytes() for path in storage.glob("*/state.json")}
    local, unwanted, damaged = job_findings(storage, None)
    assert (local.level, local.mend) == (WARNING, "orchestrator resume here")
    assert local.message == "1 job of `orchestrator run` lost the driver: here"
    assert (unwanted.message, unwanted.mend) == (
        "1 job ended without a last word: stopping",
        "orchestrator list closes the record",
    )
    assert (damaged.level, damaged.message.startswith("broken: its record cannot be read")) == (PROBLEM, True)
    assert {path: path.read_bytes() for path in storage.glob("*/state.json")} == before


def test_jobs_of_a_lost_cluster_are_told_by_doctor_and_recover(job: Any, command: Any, storage: Path) -> None:
    for number in range(7):
        job(f"big-{number}", kind="ray_jobs")
    job("doubtful", kind="ray_jobs", driver={"host": "elsewhere", "pid": 1, "started": 0.0})
    answer = command("doctor", "--storage", storage, "--json")
    lost, doubtful = [finding for finding in json.loads(answer.out) if finding["check"] == "jobs"]
    assert lost["message"] == "7 jobs lost the driver: big-0, big-1, big-2, big-3, big-4 and 2 more"
    assert lost["mend"] == "orchestrator recover --address http://HEAD:8265"
    assert doubtful["message"] == "of 1 job it is not known whether the driver lives: doubtful"
    # Nothing is taken from where it is before there is a cluster to hand it to.
    answer = command("recover", "--storage", storage, "--address", NOBODY)
    assert (answer.code, answer.out) == (5, "")
    assert f"{NOBODY}: no Ray dashboard answers there" in answer.err
    assert json.loads((storage / "big-0" / "state.json").read_text())["phase"] == "running"


def test_recover_needs_a_cluster(cli: Any, storage: Path) -> None:
    answer = cli("recover", "--storage", storage)
    assert (answer.code, "--address: which cluster?" in answer.err) == (2, True)


def told(finding: Finding | None) -> tuple[str, bool]:
    assert finding is not None
    return finding.level, bool(finding.mend)


def test_little_shared_memory_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: Usage(64 * 2**20, 0, 64 * 2**20))
    assert told(machine.check_shared_memory(tmp_path)) == (WARNING, True)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: Usage(2**33, 0, 2**33))
    assert told(machine.check_shared_memory(tmp_path)) == (OK, False)
    assert machine.check_shared_memory(tmp_path / "none") is None


def test_a_low_limit_on_open_files_is_a_warning() -> None:
    """In a process of its own, whose limit is really low."""
    code = (
        "import resource, sys; hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1];"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), hard));"
        "from orchestrator.cli.diagnose_machine import check_open_files as check; print(check().level, check().mend)"
    )
    for limit, expected in ((256, "warning ulimit -n 65536, before Ray is started"), (4096, "ok ")):
        process = subprocess.run([sys.executable, "-c", code, str(limit)], capture_output=True, text=True, check=True)
        assert process.stdout == f"{expected}\n"
    assert machine.judge_open_files("open files", -1).message == "no limit"


def test_gpus_that_nobody_measures_are_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.check_nvml(tmp_path) is None
    for name in ("nvidia0", "nvidia1", "nvidiactl"):
        (tmp_path / name).touch()
    assert told(machine.check_nvml(tmp_path)) == (OK, False)
    monkeypatch.setattr(machine, "find_spec", lambda module: None)
    finding = machine.check_nvml(tmp_path)
    assert finding is not None
    assert (finding.level, finding.mend) == (WARNING, "pip install nvidia-ml-py")
    assert finding.message.startswith("2 GPUs, but no pynvml")


def test_a_full_folder_of_ray_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environ = {"RAY_TMPDIR": str(tmp_path)}
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: Usage(1000, 960, 40))
    finding = machine.check_ray_folder(environ)
    assert (finding.level, f"{tmp_path} is 96% full" in finding.message) == (WARNING, True)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: Usage(1000, 900, 100))
    assert told(machine.check_ray_folder(environ)) == (OK, False)
    assert told(machine.check_ray_folder({"RAY_TMPDIR": str(tmp_path / "none")})) == (WARNING, True)


def test_the_machine_tells_a_remedy_for_whatever_is_wrong() -> None:
    for finding in machine.machine_findings({}):
        assert finding.level in (OK, WARNING)
        assert (finding.level == OK) == (finding.mend == "")


def test_mlflow_runs_that_nobody_has_ended_are_told(job: Any, storage: Path) -> None:
    job("ended", phase="failed", reason="user_error", mlflow_open_since=1.0)
    job("ended-well", phase="succeeded", mlflow_open_since=None)
    (finding,) = job_findings(storage, None)
    assert finding.message == "MLflow runs of 1 job that ended still go on: ended"
    assert finding.mend == "orchestrator list ends them, once MLflow answers"
