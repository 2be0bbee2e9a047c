"""What `orchestrator doctor` asks a cluster and MLflow, with small servers in their place."""

from __future__ import annotations

import json
import platform
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli.diagnose import OK, PROBLEM, WARNING, Finding
from orchestrator.cli.diagnose_cluster import check_addresses, compare_clocks, compare_versions
from orchestrator.cli.diagnose_nodes import judge_node, node_findings
from orchestrator.cli.diagnosis import mlflow_findings
from orchestrator.core.errors import OutOfReachError
from orchestrator.launch.dashboard import Answer, ask, nodes_of, token_of
from orchestrator.tracking import packages
from orchestrator.tracking.packages import Needed, missing_for

STORAGE = Path("/shared/runs")
OWN_RAY, OWN_PYTHON = metadata.version("ray"), platform.python_version()
GOOD_NODE: dict[str, Any] = {
    "node_id": "abcdef0123456789", "address": "10.0.0.2", "host": "two", "python": OWN_PYTHON, "ray": OWN_RAY,
    "orchestrator": "0.1.0", "sees_storage": True, "sees_file": True, "cannot_write": None, "free_bytes": 2**40,
    "shm_bytes": 2**33, "open_files": 65536, "gpus": 2, "has_nvml": True, "clock_ahead_s": 0.2,
    "clock_uncertain_s": 0.1,
}  # fmt: skip

Serve = Callable[[dict[str, Any]], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts a server that answers each path with JSON, or with a status alone; returns its address."""
    servers = []

    def start(pages: dict[str, Any]) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                page = pages.get(self.path.partition("?")[0], 404)
                self.send_response(page if isinstance(page, int) else 200)
                self.end_headers()
                if not isinstance(page, int):
                    self.wfile.write(json.dumps(page).encode() if not isinstance(page, str) else page.encode())

            def date_time_string(self, timestamp: float | None = None) -> str:
                return formatdate(time.time() + pages.get("ahead_s", 0), usegmt=True)

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def level(findings: list[Finding]) -> list[str]:
    return [finding.level for finding in findings]


def test_the_same_versions_are_in_order() -> None:
    assert level(compare_versions({"rayVersion": OWN_RAY, "pythonVersion": OWN_PYTHON})) == [OK]


def test_another_ray_is_a_problem_and_another_python_a_warning() -> None:
    ray, python = compare_versions({"rayVersion": "2.1.0", "pythonVersion": "3.4.9"})
    assert (ray.level, ray.mend) == (PROBLEM, "pip install 'ray[default,train]==2.1.0'")
    assert f"the cluster has Ray 2.1.0, here is {OWN_RAY}" in ray.message
    assert (python.level, python.mend) == (WARNING, "make the virtual environment with python3.4")


def test_a_cluster_that_tells_no_versions_is_a_warning() -> None:
    assert level(compare_versions({})) == [WARNING]


@pytest.mark.parametrize(
    ("ahead_s", "word"), [(60, "s ahead of this one"), (-60, "s behind this one"), (4, None), (-4, None)]
)
def test_a_clock_that_is_wrong_is_a_warning(ahead_s: int, word: str | None, serve: Serve) -> None:
    finding = compare_clocks("the head's clock", ask(serve({"/": {}, "ahead_s": ahead_s}), "/"))
    assert finding is not None
    assert finding.level == (WARNING if word else OK)
    assert word is None or word in finding.message


def test_a_slow_answer_is_no_wrong_clock() -> None:
    assert compare_clocks("its clock", Answer({}, 1000.0, 1000.0, 1030.0)).level == OK  # type: ignore[union-attr]
    assert compare_clocks("its clock", Answer({}, None, 0.0, 0.0)) is None


def test_addresses_that_contradict_each_other() -> None:
    both = {"RAY_API_SERVER_ADDRESS": "http://a:8265", "RAY_ADDRESS": "http://b:8265"}
    finding = check_addresses(None, both)
    assert finding is not None
    assert (finding.level, "http://a:8265 wins over RAY_ADDRESS=http://b:8265" in finding.message) == (WARNING, True)
    assert check_addresses("http://c:8265", both) is None
    for ray in ("http://a:8265/", "ray://a:10001", "a:6379"):
        assert check_addresses(None, {**both, "RAY_ADDRESS": ray}).level == OK  # type: ignore[union-attr]
    assert check_addresses(None, {"RAY_ADDRESS": "http://b:8265"}) is None


@pytest.mark.parametrize(
    ("pages", "message"),
    [
        ({"/api/v0/nodes": 401}, "asks for its token; set RAY_AUTH_MODE=token"),
        ({"/api/v0/nodes": 500}, "answers with HTTP 500"),
        ({"/api/v0/nodes": {"data": {}}}, "is no Ray dashboard"),
        ({"/api/v0/nodes": "<html>"}, "is no Ray dashboard"),
    ],
)
def test_what_is_no_dashboard_is_said_to_be_none(pages: dict[str, Any], message: str, serve: Serve) -> None:
    with pytest.raises(OutOfReachError, match=message):
        nodes_of(serve(pages), None)


def test_the_token_is_the_one_that_ray_would_send(tmp_path: Path) -> None:
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("from-home\n")
    (tmp_path / "other").write_text("from-file")
    assert token_of({}, tmp_path) is None
    mode = {"RAY_AUTH_MODE": "token"}
    assert token_of(mode, tmp_path) == "from-home"
    assert token_of({**mode, "RAY_AUTH_TOKEN_PATH": str(tmp_path / "other")}, tmp_path) == "from-file"
    assert token_of({**mode, "RAY_AUTH_TOKEN": "given"}, tmp_path) == "given"
    assert token_of(mode, tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    ("wrong", "expected", "words"),
    [
        ({"sees_storage": False, "sees_file": False, "cannot_write": "No such file"}, PROBLEM, "has no folder"),
        ({"sees_file": False}, PROBLEM, "it is another one"),
        ({"cannot_write": "Permission denied"}, PROBLEM, "cannot write to it: Permission denied"),
        ({"free_bytes": 2**20}, WARNING, "has only 1.0 MiB left"),
        ({"orchestrator": None}, PROBLEM, "has no installed orchestrator"),
        ({"python": "3.4.1"}, WARNING, "has Python 3.4.1"),
        ({"clock_ahead_s": -90.0}, WARNING, "is 90 s behind"),
        ({"open_files": 1024}, WARNING, "only 1,024 open files"),
        ({"shm_bytes": 64 * 2**20}, WARNING, "/dev/shm has only 64.0 MiB"),
        ({"has_nvml": False}, WARNING, "2 GPUs, but no pynvml"),
    ],
)
def test_what_is_wrong_with_a_node_is_told_with_its_remedy(wrong: dict[str, Any], expected: str, words: str) -> None:
    (finding,) = judge_node({**GOOD_NODE, **wrong}, STORAGE)
    assert (finding.check, finding.level) == ("node abcdef01", expected)
    assert words in finding.message
    assert finding.mend


def test_a_good_node_and_one_that_is_silent() -> None:
    (good,) = judge_node(GOOD_NODE, STORAGE)
    assert (good.level, good.message) == (OK, "two (10.0.0.2) sees and writes the storage, 1024.0 GiB free, 2 GPUs")
    (silent,) = judge_node({"node_id": "abcdef01", "address": "10.0.0.3", "error": "does not answer"}, STORAGE)
    assert (silent.level, silent.message) == (PROBLEM, "10.0.0.3: does not answer")


def test_nodes_are_not_asked_for_a_storage_that_is_not_there(tmp_path: Path) -> None:
    (finding,) = node_findings(None, tmp_path / "runs")  # type: ignore[arg-type]  # nobody is asked
    assert (finding.level, finding.mend.startswith("mkdir -p")) == (PROBLEM, True)


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "find_spec", lambda module: None)


@pytest.mark.usefixtures("nothing_installed")
@pytest.mark.parametrize(
    ("uri", "location", "expected"),
    [
        ("postgresql://u@h/d", None, ["psycopg[binary]"]),
        ("postgresql+psycopg2://u@h/d", None, ["psycopg2-binary"]),
        ("postgresql+psycopg://u@h/d", None, ["psycopg[binary]"]),
        ("mysql+pymysql://u@h/d", None, ["PyMySQL"]),
        ("sqlite:////x.db", None, []),
        ("http://h:5000", "s3://bucket/x", ["boto3"]),
        ("http://h:5000", "gs://bucket/x", ["google-cloud-storage"]),
        ("http://h:5000", "mlflow-artifacts:/0", []),
        ("http://h:5000", "/var/mlflow/0", []),
    ],
)
def test_packages_that_mlflow_does_not_bring(uri: str, location: str | None, expected: list[str]) -> None:
    assert [needed.package for needed in missing_for(uri, location)] == expected


def test_what_is_installed_is_not_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(packages.ARTIFACT_STORES, "s3", Needed("json.decoder", "json"))
    monkeypatch.setitem(packages.ARTIFACT_STORES, "gs", Needed("no_such_package.storage", "nothing"))
    assert missing_for("http://h", "s3://b") == []
    assert [needed.package for needed in missing_for("http://h", "gs://b")] == ["nothing"]


@pytest.mark.usefixtures("nothing_installed")
def test_a_server_whose_artifacts_are_on_s3_needs_boto3(serve: Serve, tmp_path: Path) -> None:
    search, get = "/api/2.0/mlflow/experiments/search", "/api/2.0/mlflow/experiments/get"
    pages = {search: {"experiments": []}, get: {"experiment": {"artifact_location": "s3://bucket/0"}}}
    reach, boto3 = mlflow_findings({"MLFLOW_TRACKING_URI": serve(pages)}, tmp_path)
    assert (reach.level, boto3.level) == (OK, PROBLEM)
    assert boto3.message == "boto3 is not installed, without which s3://bucket/0 cannot be reached"
    assert boto3.mend == "pip install 'boto3', on the nodes too"
    (alone,) = mlflow_findings({"MLFLOW_TRACKING_URI": serve({search: {"experiments": []}})}, tmp_path)
    assert alone.level == OK


@pytest.mark.usefixtures("nothing_installed")
def test_a_database_needs_its_driver_also_while_it_is_out_of_reach(tmp_path: Path) -> None:
    reach, driver = mlflow_findings({"MLFLOW_TRACKING_URI": "postgresql://u:secret@127.0.0.1:9/d"}, tmp_path)
    assert (reach.level, driver.level) == ("out of reach", PROBLEM)
    assert driver.mend == "pip install 'psycopg[binary]', on the nodes too"
    assert "secret" not in f"{reach}{driver}"
