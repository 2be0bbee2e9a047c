"""Against a real server, which is killed and started again."""

import math
import signal
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest

from orchestrator.core.errors import OutOfReachError
from orchestrator.core.run_directory import read_json_lines
from orchestrator.tracking.client import open_client
from orchestrator.tracking.cursor import Cursor
from orchestrator.tracking.metrics_file import encode_line
from orchestrator.tracking.run import finish_run, log_artifact, log_params, open_run, reopen_run
from orchestrator.tracking.sender import replay
from orchestrator.tracking.system_metrics import SystemMetrics
from orchestrator.tracking.tracker import RunTracker
from orchestrator.tracking.uri import check_reachable

pytestmark = pytest.mark.timeout(300)  # the server takes 10 s to start on idle cores


def test_a_run_lives_through_its_phases_quietly(server, tmp_path, capfd):
    run_id = open_run(server.uri, "digits", "digits-lamb", {"attempt": "1"}, {"train.seed": "0"}, tmp_path)
    log_params(server.uri, run_id, {"train.seed": "0"})
    (tmp_path / "report.md").write_text("done\n")
    log_artifact(server.uri, run_id, tmp_path / "report.md")
    finish_run(server.uri, run_id, "stopped")
    reopen_run(server.uri, run_id)
    client = open_client(server.uri)
    found = client.get_run(run_id)
    assert (found.info.run_name, found.info.status) == ("digits-lamb", "RUNNING")
    assert found.info.artifact_uri.startswith("mlflow-artifacts:")
    assert [file.path for file in client.list_artifacts(run_id)] == ["report.md"]
    finish_run(server.uri, run_id, "succeeded")
    assert client.get_run(run_id).info.status == "FINISHED"
    assert capfd.readouterr().out == ""


def test_values_that_json_has_not_arrive(server, run_directory):
    run_id = open_run(server.uri, "digits", "odd", {}, {})
    run_directory.metrics_file.write_bytes(encode_line(1, 1.0, {"a": math.nan, "b": math.inf, "c": -math.inf}))
    assert replay(run_directory, server.uri, run_id, 60) == 0
    metrics = open_client(server.uri).get_run(run_id).data.metrics
    assert math.isnan(metrics["a"])
    assert (metrics["b"], metrics["c"]) == (1.7976931348623157e308, -1.7976931348623157e308)


def test_a_host_name_that_the_server_refuses_is_explained(server):
    port = urlsplit(server.uri).port
    uri = f"http://localhost:{port}"
    with pytest.raises(OutOfReachError, match=rf'--allowed-hosts "localhost:{port},localhost:\*"'):
        check_reachable(uri, 5)


def test_an_outage_loses_and_repeats_nothing(server, run_directory, stored_steps, wait_until):
    run_id = open_run(server.uri, "digits", "outage", {}, {})
    used = "system/node-1/cpu_utilization_percentage"
    tracker = RunTracker(run_directory, server.uri, run_id, flush_every_s=0.1)
    with SystemMetrics(server.uri, run_id, "node-1", every_s=0.3):
        log(tracker, range(1, 101))
        wait_until(lambda: Cursor.load(run_directory).step == 100)
        wait_until(lambda: stored_steps(server.uri, run_id, used))

        server.stop(signal.SIGKILL)
        log(tracker, range(101, 201))
        wait_until(lambda: "tracking_outage" in events(run_directory))
        log(tracker, range(201, 301))
        with ThreadPoolExecutor() as pool:
            starting = pool.submit(server.start)
            log(tracker, range(301, 401))
            starting.result()
        before = len(stored_steps(server.uri, run_id, used))
        wait_until(lambda: len(stored_steps(server.uri, run_id, used)) > before + 1)
        tracker.close(timeout_s=100)

    assert stored_steps(server.uri, run_id) == list(range(1, 401))
    assert [line["step"] for line in read_json_lines(run_directory.metrics_file)] == list(range(1, 401))
    assert events(run_directory) == ["tracking_outage", "tracking_restored"]
    samples = stored_steps(server.uri, run_id, used)
    assert samples == sorted(set(samples))


def log(tracker, steps):
    for step in steps:
        tracker.log(step, {"loss": 1 / step})


def events(run_directory):
    return [line["event"] for line in read_json_lines(run_directory.events_file)]
