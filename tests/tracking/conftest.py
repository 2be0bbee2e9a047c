"""A real MLflow: a migrated sqlite database for each test, and one server for all."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.core.errors import OutOfReachError
from orchestrator.core.run_directory import RunDirectory
from orchestrator.tracking.client import open_client
from orchestrator.tracking.uri import check_reachable


class Server:
    """An MLflow server that takes requests for 127.0.0.1 and for no other host name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        database = f"sqlite:///{self.folder / 'mlflow.db'}"
        command = f"server --host 127.0.0.1 --port {self.port} --workers 1 --backend-store-uri {database}"
        command += f" --artifacts-destination {self.folder / 'artifacts'} --allowed-hosts 127.0.0.1:*"
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", *command.split()],
                cwd=self.folder,
                env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait_until_up(self) -> None:
        while True:
            assert self.process is not None
            assert self.process.poll() is None, (self.folder / "server.log").read_text()
            try:
                return check_reachable(self.uri, 5)
            except OutOfReachError:
                time.sleep(0.2)

    def kill(self) -> None:
        """The server and the processes that it started; they are a session of their own."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.process = None


@pytest.fixture(scope="session")
def migrated_database(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("template") / "mlflow.db"
    open_client(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def sqlite_uri(migrated_database, tmp_path) -> str:
    return f"sqlite:///{shutil.copy(migrated_database, tmp_path / 'mlflow.db')}"


@pytest.fixture(scope="session")
def running_server(migrated_database, tmp_path_factory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    shutil.copy(migrated_database, server.folder / "mlflow.db")
    server.start()
    yield server
    server.kill()


@pytest.fixture
def server(running_server) -> Server:
    running_server.wait_until_up()
    return running_server


@pytest.fixture
def run_directory(tmp_path) -> RunDirectory:
    (tmp_path / "job").mkdir()
    return RunDirectory(tmp_path / "job")


@pytest.fixture
def stored_steps():
    """Steps of one metric as MLflow returns them, in the order of the steps, repetitions included."""

    def read(uri: str, run_id: str, key: str = "loss") -> list[int]:
        return sorted(metric.step for metric in open_client(uri).get_metric_history(run_id, key))

    return read


@pytest.fixture
def wait_until():
    """Look again and again until something is true; the test's own timeout is the limit."""

    def wait(condition) -> None:
        while not condition():
            time.sleep(0.05)

    return wait
