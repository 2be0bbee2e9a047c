"""A cluster of which only the dashboard is used: specs travel there, and what commands print comes back."""

import getpass
import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from end_to_end.user import COMMAND, lines, start, state, steps, wait_until, write_job
from launch.ray_head import TOKEN, RayHead

pytestmark = [pytest.mark.ray, pytest.mark.distributed, pytest.mark.timeout(600)]
ROOT = Path(__file__).parents[2]
SPEC = """
name: {name}
recipe: {{target: 'tiny.py:Digits', args: {{sleep_s: {sleep_s}}}}}
train: {{steps: {steps}}}
batch: {{global_size: 96}}
env: {{SECRET: null}}
checkpoint: {{every: 1000}}
tracking: {{system_metrics_every_s: null}}
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayHead]:
    with RayHead(ROOT) as head:
        yield head


@pytest.fixture
def remote(cluster: RayHead, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    for name, value in {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "SECRET": "of mine"}.items():
        monkeypatch.setenv(name, value)
    return ("remote", "--address", cluster.address)


def ask(*arguments: object) -> tuple[int, str, str]:
    done = subprocess.run([COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def test_a_job_is_submitted_read_and_stopped_from_afar(remote: tuple[str, ...], tmp_path: Path) -> None:
    storage = tmp_path / "runs"
    spec = write_job(tmp_path / "job", SPEC.format(name="far", sleep_s=0, steps=5))
    spec.with_name(".rayignore").write_text("large.bin\n")
    spec.with_name("large.bin").write_bytes(b"0" * 1000)
    code, data, messages = ask(*remote, "submit", spec, "--storage", storage, "--follow", "--set", "train.seed=3")
    assert code == 0, messages
    assert "files" in messages.splitlines()[0]
    assert (steps(storage / "far"), state(storage / "far")["phase"]) == ([1, 2, 3, 4, 5], "succeeded")
    assert (storage / "far" / "code" / "tiny.py").exists()
    assert not (storage / "far" / "code" / "large.bin").exists()
    assert state(storage / "far")["queue"]["owner"] == getpass.getuser()

    code, data, messages = ask(*remote, "list", "--storage", storage, "--json")
    assert (code, [job["name"] for job in json.loads(data)]) == (0, ["far"]), messages
    code, data, messages = ask(*remote, "status", "near", "--storage", storage)
    assert (code, data) == (2, ""), messages
    assert f"job: no near in {storage}" in messages

    slow = write_job(tmp_path / "slow", SPEC.format(name="slow", sleep_s=0.3, steps=1000))
    process = start(*remote, "submit", slow, "--storage", storage, "--follow")
    wait_until(lambda: len(steps(storage / "slow")) >= 2, "2 steps")
    code, data, messages = ask(*remote, "stop", "slow", "--storage", storage)
    assert code == 0, messages
    process.communicate()
    assert process.returncode == 3
    assert state(storage / "slow")["phase"] == "stopped"
    assert lines(storage / "slow" / "events.jsonl")[-1]["event"] == "stopped"


def test_an_interrupt_ends_the_following_and_not_the_job(remote: tuple[str, ...], tmp_path: Path) -> None:
    storage = tmp_path / "runs"
    spec = write_job(tmp_path / "job", SPEC.format(name="left", sleep_s=0.2, steps=60))
    process = start(*remote, "submit", spec, "--storage", storage, "--follow")
    wait_until(lambda: len(steps(storage / "left")) >= 2, "2 steps")
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode not in (0, 1)
    wait_until(lambda: state(storage / "left").get("phase") == "succeeded", "the job to go on")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["list"], "storage: which folder of the cluster? Give --storage, or set ORCHESTRATOR_STORAGE on its nodes."),
        (["run", "job.yaml"], "remote: run has a Ray of its own: `submit` hands the job to the cluster."),
    ],
)
def test_what_cannot_be_done_there_is_told(remote: tuple[str, ...], arguments: list[str], message: str) -> None:
    code, data, messages = ask(*remote, *arguments)
    assert (code, data) == (2, "")
    assert message in messages
