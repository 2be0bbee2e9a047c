"""An MLflow server on a PostgreSQL of its own, on this machine: `python cluster/local/tracking.py --folder FOLDER`.

For a team that shares one history, and to try that out: SQLite takes one writer at a time, PostgreSQL takes all jobs at
once. Needs Debian's package `postgresql` (or initdb and postgres on PATH) and `pip install -e '.[server]'`. It prints
the address; the folder keeps everything, and the next start goes on from it. Ctrl-C or SIGTERM ends both servers.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from orchestrator.launch.local_nodes import HOST, free_ports

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 30.0
DEBIAN = "/usr/lib/postgresql/*/bin"
"""Where Debian has the programs of each version, off everybody's PATH."""
USER, DATABASE = "orchestrator", "postgres"
SERVER_USER = "postgres"
"""PostgreSQL refuses to run as root; then it runs as the user that its package has made."""


def programs() -> Path | None:
    """The folder of initdb and postgres, of the newest version; None where there is none."""
    on_path = shutil.which("initdb")
    folders = sorted(Path("/").glob(f"{DEBIAN}/initdb"[1:]), key=lambda path: float(path.parts[-3]))
    found = on_path or (folders[-1] if folders else None)
    return None if found is None else Path(found).resolve().parent


class Postgres:
    """One PostgreSQL server on a free port; a context that makes its data where there is none, and keeps it.

    Only this machine can connect, without a password.

    Args:
        folder: of data and log; need not exist, and PostgreSQL's user must be able to reach it.

    Raises:
        RuntimeError: where PostgreSQL is not installed or does not start.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.port = free_ports(["postgres"])["postgres"]
        self.uri = f"postgresql://{USER}@{HOST}:{self.port}/{DATABASE}"
        self._user = SERVER_USER if os.geteuid() == 0 else None
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Postgres:
        found = programs()
        if found is None:
            raise RuntimeError("initdb is missing: install Debian's package postgresql, or put it on PATH")
        data = self.folder / "data"
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._user is not None:
            shutil.chown(self.folder, self._user)
        if not (data / "PG_VERSION").exists():
            make: list[str | Path] = [found / "initdb", "--pgdata", data, "--username", USER, "--auth", "trust"]
            subprocess.run(
                [*make, "--encoding", "UTF8"], check=True, user=self._user, cwd=self.folder, stdout=subprocess.DEVNULL
            )
        log = (self.folder / "postgres.log").open("ab")
        command: list[str | Path] = [found / "postgres", "-D", data, "-h", HOST, "-p", str(self.port), "-k", ""]
        with log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, user=self._user, cwd=self.folder, start_new_session=True
            )
        is_ready: list[str | Path] = [found / "pg_isready", "-h", HOST, "-p", str(self.port), "-q"]
        _wait_for(lambda: subprocess.run(is_ready, check=False).returncode == 0, self._process, log.name)
        return self

    def __exit__(self, *_: object) -> None:
        _end(self._process, signal.SIGINT)  # which it takes as: disconnect everybody and stop in good order


class TrackingServer:
    """An MLflow server; a context.

    Args:
        database: address of its backend store.
        folder: of its artifacts and log; need not exist.
        host: an address of this machine that it listens on.
    """

    def __init__(self, database: str, folder: Path, host: str = HOST) -> None:
        self._database = database
        self._folder = folder.absolute()
        self._host, self._port = host, free_ports(["mlflow"])["mlflow"]
        self.uri = f"http://{host}:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> TrackingServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start it and wait until it answers, on the same port each time.

        Raises:
            RuntimeError: where it ends at once or does not answer.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        log = self._folder / "mlflow.log"
        options = ["--host", self._host, "--port", str(self._port), "--backend-store-uri", self._database]
        options += ["--artifacts-destination", str(self._folder / "artifacts"), "--allowed-hosts", f"{self._host}:*"]
        with log.open("ab") as stream:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", "--workers", "2", *options],
                env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
                cwd=self._folder,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )
        _wait_for(self._answers, self._process, str(log))

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End it and the processes that it started, which are a session of their own."""
        _end(self._process, number, whole_session=True)
        self._process = None

    def check(self) -> None:
        """Look whether it runs.

        Raises:
            RuntimeError: where it has ended.
        """
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError(f"the MLflow server has ended: see {self._folder / 'mlflow.log'}")

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(f"{self.uri}/health", timeout=5).close()
        except (urllib.error.URLError, OSError):
            return False
        return True


def _wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes], log: str) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"it does not start or answer: see {log}")
        time.sleep(0.2)


def _end(process: subprocess.Popen[bytes] | None, number: int, *, whole_session: bool = False) -> None:
    if process is None:
        return
    with contextlib.suppress(ProcessLookupError):
        (os.killpg if whole_session else os.kill)(process.pid, number)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_TIMEOUT_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextlib.contextmanager
def shared_history(folder: Path) -> Iterator[tuple[TrackingServer, Postgres]]:
    """Both servers, started and in the end ended."""
    with Postgres(folder / "postgres") as postgres, TrackingServer(postgres.uri, folder / "mlflow") as server:
        yield server, postgres


def main() -> int:
    """Keep both up until somebody ends them; returns the exit code."""
    parser = argparse.ArgumentParser(description="An MLflow server on PostgreSQL on this machine.")
    parser.add_argument("--folder", type=Path, required=True, help="keeps the history; made where it is missing")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with shared_history(given.folder) as (server, _):
            print(f"export MLFLOW_TRACKING_URI={server.uri}\nCtrl-C ends this; the history stays.", flush=True)
            while True:
                server.check()
                time.sleep(1)
    except KeyboardInterrupt:
        return 0
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
