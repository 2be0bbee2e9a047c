"""`submit` and what follows it on a real Ray cluster that asks for a token. The drivers train nothing."""

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from launch.ray_head import TOKEN, RayHead

from orchestrator.core.run_directory import RunDirectory

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def head() -> Iterator[RayHead]:
    with RayHead(python_path=HERE) as head:
        yield head


@pytest.fixture
def user(head: RayHead, monkeypatch: pytest.MonkeyPatch) -> None:
    """A person who has the cluster's token."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", head.address)


@pytest.fixture
def behave(spec: Path) -> Callable[[str], None]:
    """How the driver on the cluster behaves."""
    text = spec.read_text()

    def write(behavior: str) -> None:
        spec.write_text(text + f"env: {{STANDIN: {behavior}}}\n")

    return write


@pytest.fixture
def job(storage: Path) -> RunDirectory:
    return RunDirectory(storage / "tiny")


def finish(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, capture_output=True, text=True, check=False)


@pytest.mark.usefixtures("user")
def test_submit_and_follow_ends_with_the_code_of_the_job(
    with_standin, behave, spec, storage: Path, head: RayHead
) -> None:
    behave("fail")
    process = finish(with_standin("", "submit", spec, "--follow", "--storage", storage))
    assert process.returncode == 1
    assert process.stdout.splitlines()[0] == "tiny"
    assert f"Ray job tiny-a1 at {head.address}" in process.stderr
    assert "result         failed" in process.stdout
    assert process.stderr.endswith("error: Tiny.loss raised ValueError at recipe.py:14 (return 1): no such thing\n")


@pytest.mark.usefixtures("user")
def test_a_submitted_job_is_stopped_resumed_and_left_alone(with_standin, behave, spec, storage: Path, job) -> None:
    behave("wait")
    process = finish(with_standin("", "submit", spec, "--storage", storage))
    assert (process.returncode, process.stdout) == (0, "tiny\n")

    stopped = finish(with_standin("", "stop", "tiny", "--storage", storage))
    assert (stopped.returncode, stopped.stdout) == (0, "")
    assert job.read_state()["phase"] == "stopped"

    # Ctrl-C ends the following, not the job.
    command = with_standin("", "resume", "tiny", "--follow", "--storage", storage)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None
        assert follower.stderr is not None
        while "training starts" not in follower.stdout.readline():
            pass
        follower.send_signal(signal.SIGINT)
        assert "tiny goes on" in follower.stderr.read()
    assert follower.returncode == 130
    assert job.read_state()["phase"] == "running"

    status = finish(with_standin("", "status", "tiny", "--storage", storage, "--json"))
    assert json.loads(status.stdout)["backend"]["submission_id"] == "tiny-a2"
    assert finish(with_standin("", "stop", "tiny", "--storage", storage)).returncode == 0

    # What the driver printed is in the run directory; without that, the cluster has it too.
    logs = with_standin("", "logs", "--driver", "tiny", "--storage", storage)
    assert "the driver speaks" in finish(logs).stdout
    job.driver_log.unlink()
    assert "the driver speaks" in finish(logs).stdout


@pytest.mark.usefixtures("user")
def test_doctor_sees_the_cluster(command, head: RayHead, storage: Path) -> None:
    answer = command("doctor", "--storage", storage)
    assert answer.code == 0
    assert f"{head.address} answers" in answer.out


def test_doctor_without_the_token_is_5(head: RayHead, storage: Path, command) -> None:
    os.environ.pop("RAY_AUTH_TOKEN", None)
    answer = command("doctor", "--storage", storage, "--address", head.address)
    assert answer.code == 5
    assert "RAY_AUTH_MODE=token" in answer.out
