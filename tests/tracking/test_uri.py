import http.server
import json
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from orchestrator.core.errors import OutOfReachError, UsageError
from orchestrator.tracking.uri import check_reachable, check_uri, redact, resolve_tracking_uri


@pytest.mark.parametrize(
    ("spec", "environ", "expected"),
    [
        ("http://spec:5000", {"MLFLOW_TRACKING_URI": "http://env:5000"}, "http://spec:5000"),
        (None, {"MLFLOW_TRACKING_URI": "http://env:5000/"}, "http://env:5000"),
        (None, {"MLFLOW_TRACKING_URI": ""}, "sqlite:////data/runs/mlflow.db"),
        (None, {}, "sqlite:////data/runs/mlflow.db"),
    ],
)
def test_the_spec_wins_over_the_environment_and_sqlite_is_the_default(spec, environ, expected):
    assert resolve_tracking_uri(spec, environ, Path("/data/runs")) == expected


def test_relative_sqlite_paths_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resolve_tracking_uri("sqlite:///mlflow.db", {}, Path("runs")) == f"sqlite:///{tmp_path}/mlflow.db"
    assert resolve_tracking_uri(None, {}, Path("runs")) == f"sqlite:///{tmp_path}/runs/mlflow.db"


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("file:./mlruns", "sqlite:///"),
        ("file:///data/mlruns", "sqlite:////data/mlruns/mlflow.db"),
        ("./mlruns", "plain folder"),
        ("/data/mlruns", "sqlite:////data/mlruns/mlflow.db"),
        ("sqlite://", "names no file"),
        ("sqlite:///", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("localhost:5000", "'localhost', which is not supported"),
        ("databricks", "'databricks', which is not supported"),
        ("ftp://host/x", "'ftp', which is not supported"),
        ("http://", "names no host"),
        ("http://host:port", "malformed"),
        ("http://[host", "malformed"),
    ],
)
def test_addresses_that_keep_no_history_are_refused(uri, says):
    with pytest.raises(UsageError, match=says.replace("[", r"\[")):
        check_uri(uri)


@pytest.mark.parametrize(
    "uri",
    ["http://host:5000", "https://host/prefix", "sqlite:////data/mlflow.db", "postgresql+psycopg2://u:p@h:1/db"],
)
def test_addresses_that_mlflow_takes_pass(uri):
    check_uri(uri)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://ann:s3cret@host:5432/db", "postgresql://ann:***@host:5432/db"),
        ("http://s3cret@host", "http://***@host"),
        ("request to http://ann:s3@cret@host/api failed", "request to http://ann:***@host/api failed"),
        ("postgresql://host/db?user=ann&password=s3cret&x=1", "postgresql://host/db?user=ann&password=***&x=1"),
        ("http://host:5000/a@b", "http://host:5000/a@b"),
        ("sqlite:////data/mlflow.db", "sqlite:////data/mlflow.db"),
    ],
)
def test_passwords_are_hidden(text, shown):
    assert redact(text) == shown


def test_refusals_never_show_a_password():
    with pytest.raises(UsageError) as caught:
        check_uri("ftp://ann:s3cret@host")
    assert "s3cret" not in str(caught.value)


def test_sqlite_is_reachable_where_its_folder_can_be_made(tmp_path):
    check_reachable(f"sqlite:///{tmp_path}/new/folder/mlflow.db", 1)
    assert not (tmp_path / "new").exists()


def test_sqlite_in_an_impossible_place_is_out_of_reach(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutOfReachError, match="file is not a folder"):
        check_reachable(f"sqlite:///{tmp_path}/file/mlflow.db", 1)
    with pytest.raises(OutOfReachError, match="is a folder"):
        check_reachable(f"sqlite:///{tmp_path}", 1)


def test_a_database_server_is_asked_for_a_connection():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        check_reachable(f"postgresql://ann:s3cret@127.0.0.1:{port}/mlflow", 5)
    with pytest.raises(OutOfReachError, match=r"ann:\*\*\*@.* does not answer"):
        check_reachable(f"postgresql://ann:s3cret@127.0.0.1:{port}/mlflow", 5)


class Front(http.server.BaseHTTPRequestHandler):
    """What may stand in front of MLflow: it keeps what it was asked, and answers as the test says."""

    def do_GET(self):
        self.server.asked.append((self.path, self.headers.get("Authorization")))
        status, body = self.server.answer
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def front():
    server = http.server.HTTPServer(("127.0.0.1", 0), Front)
    server.asked, server.answer = [], (200, b'{"experiments": []}')
    server.uri = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ((401, b""), "MLFLOW_TRACKING_USERNAME"),
        ((403, b"no"), "MLFLOW_TRACKING_TOKEN"),
        ((404, b""), "has no MLflow API"),
        ((502, b""), "HTTP 502"),
        ((200, b"<html>log in</html>"), "is not an MLflow server"),
    ],
)
def test_answers_that_are_no_tracking_server(front, answer, says):
    front.answer = answer
    with pytest.raises(OutOfReachError, match=says):
        check_reachable(front.uri, 5)


def test_the_api_is_asked_under_the_prefix_of_the_address(front):
    check_reachable(f"{front.uri}/team/", 5)
    assert front.asked == [("/team/api/2.0/mlflow/experiments/search?max_results=1", None)]


def test_credentials_go_along_as_mlflow_sends_them(front, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".mlflow").mkdir()
    credentials = tmp_path / ".mlflow" / "credentials"
    credentials.write_text("[mlflow]\nmlflow_tracking_username = ann\nmlflow_tracking_password = s3%cret\n")
    check_reachable(front.uri, 5)
    credentials.unlink()
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "t0ken")
    check_reachable(front.uri, 5)
    check_reachable(front.uri.replace("://", "://ann:s3%25cret@"), 5)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ann")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "s3%cret")
    check_reachable(front.uri, 5)
    basic = "Basic YW5uOnMzJWNyZXQ="
    assert [authorization for _, authorization in front.asked] == [basic, "Bearer t0ken", basic, basic]


def test_a_server_that_is_not_there_is_out_of_reach():
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(OutOfReachError, match=r"does not answer: .*refused") as caught:
        check_reachable(f"http://127.0.0.1:{port}", 5)
    assert caught.value.exit_code == 5


def test_a_server_that_accepts_and_says_nothing_is_out_of_reach():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(OutOfReachError, match="timed out"):
            check_reachable(f"http://127.0.0.1:{port}", 0.2)


def test_own_certificates_need_the_insecure_switch(front, tmp_path, monkeypatch):
    import ssl

    subject = ["-subj", "/CN=localhost", "-keyout", tmp_path / "key.pem", "-out", tmp_path / "certificate.pem"]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *subject], check=True, capture_output=True
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "certificate.pem", tmp_path / "key.pem")
    front.socket = context.wrap_socket(front.socket, server_side=True)
    uri = front.uri.replace("http://", "https://")
    with pytest.raises(OutOfReachError, match="certificate"):
        check_reachable(uri, 5)
    monkeypatch.setenv("MLFLOW_TRACKING_INSECURE_TLS", "true")
    check_reachable(uri, 5)


def test_checking_an_address_imports_neither_mlflow_nor_torch_nor_ray():
    code = """
import json, sys
import orchestrator.tracking.uri, orchestrator.tracking.run, orchestrator.tracking.sender
import orchestrator.tracking.tracker, orchestrator.tracking.system_metrics, orchestrator.tracking.environment
print(json.dumps(sorted({"mlflow", "torch", "ray", "sqlalchemy", "requests", "filelock"} & sys.modules.keys())))
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(answer.stdout) == []
