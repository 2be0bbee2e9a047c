"""Eight jobs at once into one MLflow server on a real PostgreSQL, which dies and comes back in between."""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from cluster.local.tracking import Postgres, TrackingServer, programs, shared_history
from orchestrator.core.run_directory import RunDirectory, read_json_lines
from orchestrator.tracking.run import open_run
from orchestrator.tracking.sender import replay
from orchestrator.tracking.tracker import RunTracker

pytestmark = pytest.mark.timeout(600)
JOBS, STEPS, METRICS = 8, 40, 50


@pytest.fixture
def history() -> Iterator[tuple[TrackingServer, Postgres]]:
    if programs() is None:
        reason = "PostgreSQL is missing; tests/install.sh installs it on Debian"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    # Not pytest's own folder, which PostgreSQL's user may not enter.
    folder = Path(tempfile.mkdtemp(prefix="history"))
    folder.chmod(0o711)
    try:
        with shared_history(folder) as servers:
            yield servers
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def value(job: int, step: int, metric: int) -> float:
    return job + step / 100 + metric / 10_000


def test_eight_jobs_at_once_lose_nothing(history: tuple[TrackingServer, Postgres], tmp_path: Path, wait_until) -> None:
    import psycopg

    server, postgres = history
    directories = [RunDirectory(tmp_path / f"job-{job}") for job in range(JOBS)]
    for directory in directories:
        directory.root.mkdir()
    runs = [open_run(server.uri, "shared", directory.name, {}, {"job": directory.name}) for directory in directories]

    with ExitStack() as stack:
        trackers = [
            stack.enter_context(closing(RunTracker(directory, server.uri, run, flush_every_s=0.2)))
            for directory, run in zip(directories, runs, strict=True)
        ]

        def log(steps: range) -> None:
            for step in steps:
                for job, tracker in enumerate(trackers):
                    tracker.log(step, {f"metric_{k}": value(job, step, k) for k in range(METRICS)})

        log(range(1, STEPS // 2))
        wait_until(lambda: _stored(postgres, runs[0]) > METRICS)
        server.stop(signal.SIGKILL)
        log(range(STEPS // 2, STEPS + 1))
        wait_until(lambda: any(_events(directory) for directory in directories))
        server.start()
    left = [replay(directory, server.uri, run, 120) for directory, run in zip(directories, runs, strict=True)]

    assert left == [0] * JOBS
    with closing(psycopg.connect(postgres.uri)) as connection, connection.cursor() as cursor:
        for job, run in enumerate(runs):
            cursor.execute("select key, step, value from metrics where run_uuid = %s and key like 'metric%%'", (run,))
            stored = sorted((int(key.removeprefix("metric_")), step, value) for key, step, value in cursor.fetchall())
            assert stored == [(k, step, value(job, step, k)) for k in range(METRICS) for step in range(1, STEPS + 1)]


def test_the_history_is_there_after_the_next_start(tmp_path: Path, history: tuple[TrackingServer, Postgres]) -> None:
    server, postgres = history
    run = open_run(server.uri, "shared", "first", {}, {})
    server.stop()
    with TrackingServer(postgres.uri, tmp_path) as again:
        assert open_run(again.uri, "shared", "second", {}, {}) != run
        # The experiment is the one of before.
        assert _experiments(postgres) == [("shared", 2)]


def _stored(postgres: Postgres, run: str) -> int:
    import psycopg

    with closing(psycopg.connect(postgres.uri)) as connection, connection.cursor() as cursor:
        cursor.execute("select count(*) from metrics where run_uuid = %s", (run,))
        (count,) = cursor.fetchone()
    return int(count)


def _experiments(postgres: Postgres) -> list[tuple[str, int]]:
    import psycopg

    query = "select e.name, count(*) from experiments e join runs r using (experiment_id) group by e.name"
    with closing(psycopg.connect(postgres.uri)) as connection, connection.cursor() as cursor:
        cursor.execute(query)
        return list(cursor.fetchall())


def _events(directory: RunDirectory) -> list[str]:
    return [line["event"] for line in read_json_lines(directory.events_file)]
