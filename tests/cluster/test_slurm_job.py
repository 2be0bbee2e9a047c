"""The Slurm job with stand-ins for what it calls: what it starts, and how it ends.

On a real Slurm it runs in ``test_slurm``.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster_definitions import CLUSTER, linter

SCRIPT = CLUSTER / "slurm" / "job.sh"
STANDIN = Path(__file__).with_name("slurm_standin.py")


class SlurmJob:
    """Starts the script as Slurm would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("srun", "scontrol", "hostname", "ray", "orchestrator"):
            program = folder / "bin" / name
            program.parent.mkdir(exist_ok=True)
            program.write_text(f"#!{sys.executable}\n{STANDIN.read_text()}")
            program.chmod(0o755)
        (folder / "bin" / "python3").symlink_to(sys.executable)
        self.process: subprocess.Popen[str] | None = None

    def start(self, *arguments: str, **variables: str) -> None:
        self.process = subprocess.Popen(
            [SCRIPT, *arguments],
            cwd=self.folder,
            env={
                "PATH": f"{self.folder / 'bin'}:/usr/bin:/bin",
                "SLURM_JOB_ID": str(free_job_id()),
                "SLURM_JOB_NODELIST": "one,two,three",
                "SLURM_CPUS_PER_TASK": "6",
                "STANDIN_FOLDER": str(self.folder),
                **variables,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def end(self) -> tuple[int, str]:
        assert self.process is not None
        output, _ = self.process.communicate()
        return self.process.returncode, output

    def records(self, what: str) -> list[dict[str, Any]]:
        file = self.folder / "record.jsonl"
        found = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        return [one for one in found if one["what"] == what]

    def wait_for(self, condition: Callable[[], bool]) -> None:
        assert self.process is not None
        while not condition():
            assert self.process.poll() is None, self.end()
            time.sleep(0.05)


def free_job_id() -> int:
    """An id whose port for the dashboard is free."""
    for number in range(1000):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", 21000 + number)):
                return 5000 + number
    raise AssertionError("no port is free")


@pytest.fixture
def job(tmp_path: Path) -> Iterator[SlurmJob]:
    job = SlurmJob(tmp_path)
    yield job
    if job.process is not None and job.process.poll() is None:
        os.killpg(job.process.pid, signal.SIGKILL)
        job.process.wait()


@pytest.mark.parametrize("path", [SCRIPT], ids=lambda path: path.name)
def test_shellcheck_has_nothing_to_say(path: Path) -> None:
    result = subprocess.run([linter("shellcheck"), str(path)], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "")


def test_ray_runs_on_all_nodes_and_the_exit_code_is_the_jobs(job: SlurmJob) -> None:
    job.start("job.yaml", "--set", "resources.workers=3", "--storage", "/shared/runs")
    code, output = job.end()
    assert code == 3, output
    head, *others = job.records("ray")
    assert head["node"] == "one"
    assert sorted(other["node"] for other in others) == ["three", "two"]
    options = dict(argument.partition("=")[::2] for argument in head["arguments"][1:])
    assert head["arguments"][0] == "start"
    assert {"--head", "--block", "--include-dashboard", "--num-cpus"} <= options.keys()
    assert options["--num-cpus"] == "6"
    ports = {options[f"--{name}port"] for name in ("", "dashboard-", "dashboard-agent-listen-", "ray-client-server-")}
    assert len(ports) == 4
    assert {port[2:] for port in ports} == {f"{int(options['--port']) % 1000:03}"}
    # Each of Ray's steps has all CPUs of the job there.
    steps = [one["options"] for one in job.records("srun") if one["program"] == "ray"]
    assert ["--cpus-per-task=6" in step for step in steps] == [True] * 3
    assert options["--node-ip-address"] == options["--dashboard-host"] == "127.0.0.1"
    for other in others:
        assert f"--address=127.0.0.1:{options['--port']}" in other["arguments"]
        assert "--head" not in other["arguments"]
    (submitted,) = job.records("orchestrator")
    address = f"http://127.0.0.1:{options['--dashboard-port']}"
    assert submitted["arguments"][:5] == ["submit", "job.yaml", "--address", address, "--follow"]
    assert submitted["arguments"][5:] == ["--set", "resources.workers=3", "--storage", "/shared/runs"]
    assert submitted["storage"] == "/shared/runs"
    assert sorted(ended["node"] for ended in job.records("ray ended")) == ["one", "three", "two"]


def test_all_nodes_have_one_token_that_no_command_line_shows(job: SlurmJob) -> None:
    job.start("job.yaml")
    job.end()
    started = job.records("ray")
    (token,) = {one["RAY_AUTH_TOKEN"] for one in started}
    assert len(token) == 64
    assert {one["RAY_AUTH_MODE"] for one in started} == {"token"}
    assert not any(token in argument for one in started for argument in one["arguments"])


def test_before_the_time_is_up_the_job_is_asked_to_stop(job: SlurmJob) -> None:
    job.start("job.yaml", STANDIN_SUBMIT="waits")
    job.wait_for(lambda: bool(job.records("orchestrator")) and (job.folder / "address").exists())
    assert job.process is not None
    job.process.send_signal(signal.SIGUSR1)
    code, output = job.end()
    assert code == 3, output
    stops = [one["arguments"] for one in job.records("orchestrator") if one["arguments"][0] == "stop"]
    assert stops == [["stop", "digits", "--storage", str(job.folder / "runs"), "--timeout", "240"]]
    assert len(job.records("ray ended")) == 3


def test_a_time_that_is_up_before_ray_is_ends_it(job: SlurmJob) -> None:
    job.start("job.yaml", STANDIN_RAY="silent")
    job.wait_for(lambda: bool(job.records("ray")))
    assert job.process is not None
    job.process.send_signal(signal.SIGUSR1)
    code, output = job.end()
    assert (code, "the time was up before Ray was" in output) == (3, True), output
    assert job.records("orchestrator") == []
    assert [one["node"] for one in job.records("ray ended")] == ["one"]


def test_a_head_that_does_not_start_ends_it(job: SlurmJob) -> None:
    job.start("job.yaml", STANDIN_RAY="fails")
    code, output = job.end()
    assert code == 5
    assert "ray did not start on one" in output
    assert job.records("orchestrator") == []


def test_without_a_spec_it_says_what_it_takes(job: SlurmJob) -> None:
    job.start()
    assert job.end() == (2, "usage: sbatch job.sh SPEC [options of orchestrator submit]\n")
