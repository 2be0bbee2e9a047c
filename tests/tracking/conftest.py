"""A real MLflow: a migrated sqlite database for each test, and one server for all."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.local.tracking import TrackingServer
from orchestrator.core.run_directory import RunDirectory
from orchestrator.tracking.client import open_client


@pytest.fixture(scope="session")
def migrated_database(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("template") / "mlflow.db"
    open_client(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def sqlite_uri(migrated_database, tmp_path) -> str:
    return f"sqlite:///{shutil.copy(migrated_database, tmp_path / 'mlflow.db')}"


@pytest.fixture(scope="session")
def server(migrated_database, tmp_path_factory) -> Iterator[TrackingServer]:
    folder = tmp_path_factory.mktemp("server")
    with TrackingServer(f"sqlite:///{shutil.copy(migrated_database, folder / 'mlflow.db')}", folder) as server:
        yield server


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
