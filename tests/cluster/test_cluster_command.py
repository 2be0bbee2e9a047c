"""`orchestrator cluster`: real nodes on this machine, and what is asked of Ray's launcher for machines elsewhere."""

import json
import os
import re
import shutil
import signal
import socket
import stat
from pathlib import Path
from typing import Any

import psutil
import pytest
from cluster_definitions import CLUSTER
from end_to_end.user import run

from orchestrator.cli.main import main
from orchestrator.launch import dashboard, ray_launcher
from orchestrator.launch.dashboard import ClusterNode

pytestmark = pytest.mark.timeout(600)
ON_PREMISES = CLUSTER / "on_premises" / "cluster.yaml"


def of(records: Path, *command: str) -> tuple[int, str]:
    return run("cluster", *command, env={"ORCHESTRATOR_CLUSTERS": str(records)})


def processes_below(pids: list[int]) -> list[psutil.Process]:
    """The nodes' processes and everything that they have started."""
    leaders = [psutil.Process(pid) for pid in pids]
    return [*leaders, *(child for leader in leaders for child in leader.children(recursive=True))]


@pytest.mark.ray
def test_nodes_on_this_machine_from_up_to_down(tmp_path: Path) -> None:
    records = tmp_path / "clusters"
    record = records / "try.json"
    started: list[psutil.Process] = []
    try:
        code, output = of(records, "up", "--name", "try", "--nodes", "2", "--cpus-per-node", "3")
        assert code == 0, output
        exported = re.search(
            r"^export RAY_API_SERVER_ADDRESS=(\S+) RAY_AUTH_MODE=token RAY_AUTH_TOKEN=(\S+)$", output, re.MULTILINE
        )
        assert exported, output
        nodes = json.loads(record.read_text())["nodes"]
        started = processes_below([node["pid"] for node in nodes])
        assert [process.name() for process in started].count("raylet") == 3
        assert stat.S_IMODE(record.stat().st_mode) == 0o600

        code, output = of(records, "status", "--name", "try", "--json")
        assert code == 0, output
        shown = json.loads(output)
        assert (shown["is_up"], shown["address"], shown["error"]) == (True, exported[1], None)
        assert [(node["is_head"], node["cpus"]) for node in shown["nodes"]] == [(True, 0), (False, 3), (False, 3)]
        assert [(node["role"], node["is_alive"]) for node in shown["processes"]] == [
            ("head", True),
            ("worker", True),
            ("worker", True),
        ]

        environment = shown["environment"]
        storage = tmp_path / "runs"
        storage.mkdir()
        code, output = run("doctor", "--nodes", "--storage", storage, "--json", env=environment)
        assert code == 0, output
        found = [finding for finding in json.loads(output) if finding["check"].startswith("node ")]
        assert len(found) == 3
        assert all("sees and writes the storage" in finding["message"] for finding in found), found
        assert [finding["level"] for finding in json.loads(output) if finding["check"] == "ray versions"] == ["ok"]
        assert list(storage.iterdir()) == []

        code, output = of(records, "up", "--name", "try")
        assert (code, f"the cluster try is up at {exported[1]}" in output) == (2, True), output

        # A node whose first process dies leaves the others behind: they are its own all the same.
        psutil.Process(nodes[2]["pid"]).kill()
        psutil.wait_procs([process for process in started if process.pid == nodes[2]["pid"]], timeout=30)
        code, output = of(records, "status", "--name", "try")
        assert (code, output.count("alive"), output.count("dead")) == (5, 2, 1), output

        code, output = of(records, "down", "--name", "try")
        assert (code, output) == (0, "try: 3 nodes ended.\n")
        assert psutil.wait_procs(started, timeout=30)[1] == []
        assert not Path(nodes[0]["log"]).parent.exists()
        assert not record.exists()
    finally:
        for process in started:
            if process.is_running():
                process.send_signal(signal.SIGKILL)
    code, output = of(records, "down", "--name", "try")
    assert (code, "There is nothing to end." in output) == (0, True), output
    code, output = of(records, "status", "--name", "try")
    assert (code, "No cluster try is on record" in output) == (5, True), output


def test_down_ends_no_process_that_has_only_the_number_of_a_node(tmp_path: Path) -> None:
    """The machine has been restarted, and somebody else's process has the number."""
    bystander = psutil.Process()
    node = {"role": "head", "host": socket.gethostname(), "pid": bystander.pid, "started": 1.0}
    node |= {"mark": "--temp-dir=/nowhere/ray", "cpus": 0, "log": "/nowhere/log"}
    records = tmp_path / "clusters"
    records.mkdir()
    fields = {"address": "http://127.0.0.1:9", "gcs_address": "127.0.0.1:9", "token": "t", "created_at": 1.0}
    (records / "old.json").write_text(json.dumps({**fields, "folder": str(tmp_path / "gone"), "nodes": [node]}))
    code, output = of(records, "status", "--name", "old")
    assert (code, "dead" in output, "no Ray dashboard answers" in output) == (5, True, True), output
    code, output = of(records, "down", "--name", "old")
    assert (code, output) == (0, "old: 1 node ended.\n")
    assert bystander.is_running()


@pytest.mark.parametrize(
    ("content", "message"), [("{", "is no record of a cluster"), ('{"nodes": [], "x": 1}', "is no record of a cluster")]
)
def test_a_damaged_record_is_named(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "local.json").write_text(content)
    code, output = of(tmp_path, "status")
    assert (code, f"{tmp_path}/local.json: {message}" in output) == (2, True), output


@pytest.fixture
def launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Plays the command `ray`; returns the file with a line for each call."""
    folder = tmp_path / "bin"
    folder.mkdir()
    calls = tmp_path / "calls"
    script = folder / "ray"
    script.write_text(
        f'#!/bin/sh\necho "$@" "$REACHED" >> {calls}\n'
        'case "$1" in\n'
        "    get-head-ip) echo Loaded cached provider; echo 10.9.8.7;;\n"
        '    get-auth-token) mkdir -p "$HOME/.ray"; echo token > "$HOME/.ray/auth_token"; echo token;;\n'
        '    *) echo "words of $1"; exit "${STANDIN_CODE:-0}";;\n'
        "esac\n"
    )
    script.chmod(0o755)
    # Where it is told to log in, it is there already: the last word is the command.
    ssh = folder / "ssh"
    ssh.write_text(
        f'#!/bin/bash\nexport REACHED="${{@: -2:1}}"\necho "ssh $REACHED" >> {calls}\n'
        '[[ $REACHED != "$STANDIN_OFF" ]] && exec bash -c "${@: -1}"\n'
    )
    ssh.chmod(0o755)
    activate = tmp_path / "orchestrator" / ".venv" / "bin" / "activate"
    activate.parent.mkdir(parents=True)
    activate.write_text(f"PATH={folder}:$PATH\n")
    (tmp_path / ".bashrc").touch()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr(ray_launcher.sys, "executable", str(folder / "python"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    return calls


@pytest.fixture
def definition(tmp_path: Path) -> Path:
    """The example, filled in."""
    path = tmp_path / "cluster.yaml"
    path.write_text(ON_PREMISES.read_text().replace("192.0.2.", "10.0.0."))
    return path


def test_machines_by_ssh_are_left_to_rays_launcher(launcher: Path, definition: Path, capfd: Any) -> None:
    assert main(["cluster", "up", str(definition)]) == 0
    out, err = capfd.readouterr()
    assert out == "export RAY_API_SERVER_ADDRESS=http://10.0.0.10:8265 RAY_AUTH_MODE=token\n"
    assert "words of up" in err
    assert launcher.read_text().splitlines() == ["get-auth-token --generate ", f"up --yes {definition} "]


HEAD, WORKERS = "train@10.0.0.10", ["train@10.0.0.11", "train@10.0.0.12"]


def test_down_ends_ray_on_the_workers_by_way_of_the_head_and_then_there(
    launcher: Path, definition: Path, capfd: Any
) -> None:
    assert main(["cluster", "down", str(definition)]) == 0
    assert "Ray has ended on 3 machines." in capfd.readouterr().err
    calls = launcher.read_text().splitlines()
    assert (calls[0], calls[-1]) == (f"ssh {HEAD}", f"stop {HEAD}")
    assert sorted(calls[1:-1]) == [f"ssh {worker}" for worker in WORKERS] + [f"stop {worker}" for worker in WORKERS]


def test_down_names_a_machine_that_is_off_and_ends_the_others(
    launcher: Path, definition: Path, capfd: Any, monkeypatch: Any
) -> None:
    monkeypatch.setenv("STANDIN_OFF", WORKERS[0])
    assert main(["cluster", "down", str(definition)]) == 5
    err = capfd.readouterr().err
    assert "10.0.0.11: Ray could not be ended" in err
    assert "`ssh 10.0.0.10` ended with exit code 1." in err
    assert [call for call in launcher.read_text().splitlines() if call.startswith("stop")] == [
        f"stop {WORKERS[1]}",
        f"stop {HEAD}",
    ]


def test_down_reaches_the_head_as_the_file_says(definition: Path) -> None:
    text = definition.read_text().replace("head_ip:", "external_head_ip: gate.example\n  head_ip:")
    definition.write_text(text.replace("auth:", "auth:\n  ssh_proxy_command: nc -X 5 %h %p"))
    *options, head, script = ray_launcher.read_definition(definition).stop
    assert head == "train@gate.example"
    assert options[options.index("-i") + 1] == str(Path("~/.ssh/id_ed25519").expanduser())
    assert "ProxyCommand=nc -X 5 %h %p" in options
    # The workers are reached with the key that the launcher has put on the head, and without the detour.
    assert "~/ray_bootstrap_key.pem" in script
    assert "ProxyCommand" not in script


def test_a_cloud_takes_its_machines_back(launcher: Path, tmp_path: Path) -> None:
    path = tmp_path / "aws.yaml"
    shutil.copy(CLUSTER / "cloud" / "aws.yaml", path)
    assert main(["cluster", "down", str(path)]) == 0
    assert launcher.read_text().splitlines() == [f"down --yes {path} "]


def test_the_head_of_a_cloud_is_asked_for(launcher: Path, tmp_path: Path, capfd: Any) -> None:
    path = tmp_path / "aws.yaml"
    shutil.copy(CLUSTER / "cloud" / "aws.yaml", path)
    assert main(["cluster", "up", str(path)]) == 0
    assert "http://10.9.8.7:8265" in capfd.readouterr().out


def test_a_launcher_that_fails_is_told(launcher: Path, definition: Path, capfd: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("STANDIN_CODE", "3")
    assert main(["cluster", "up", str(definition)]) == 5
    assert f"`ray up --yes {definition}` ended with exit code 3." in capfd.readouterr().err


@pytest.mark.parametrize(
    ("alive", "min_workers", "code", "missing"),
    [(3, "", 0, None), (2, "", 5, "1 node of 3"), (1, "", 5, "2 nodes of 3"), (2, "min_workers: 1\n", 0, None)],
)
def test_status_says_how_many_machines_have_not_joined(
    alive: int, min_workers: str, code: int, missing: str | None, definition: Path, capfd: Any, monkeypatch: Any
) -> None:
    definition.write_text(definition.read_text() + min_workers)
    common = {"cpus": 2.0, "gpus": 0.0}
    nodes = [
        ClusterNode(node_id=str(n) * 9, address=f"10.0.0.1{n}", is_head=n == 0, is_alive=n < alive, **common)
        for n in range(3)
    ]
    monkeypatch.setattr(dashboard, "nodes_of", lambda address, token: nodes)
    assert main(["cluster", "status", str(definition), "--json"]) == code
    assert (json.loads(capfd.readouterr().out)["num_missing"] > 0) == (missing is not None)
    assert main(["cluster", "status", str(definition)]) == code
    out = capfd.readouterr().out
    assert missing in out if missing else "missing" not in out


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("head_ip: 10.0.0.10", "head_ip: 192.0.2.10", "192.0.2.10 stands for an address of yours in examples"),
        ("head_ip: 10.0.0.10", "other: 1", "provider.head_ip: missing"),
        ("  type: local", "  kind: local", "provider.type: missing"),
        ("  type: local", "  type: [local", "is not YAML: "),
        ("file_mounts:\n", "file_mounts:\n  /a: /no/such/file\n", "no such file on this machine: /no/such/file"),
    ],
)
def test_what_ray_would_tell_late_is_told_at_once(
    old: str, new: str, message: str, launcher: Path, definition: Path, capfd: Any
) -> None:
    text = definition.read_text()
    assert old in text
    definition.write_text(text.replace(old, new))
    assert main(["cluster", "up", str(definition)]) == 2
    assert message in capfd.readouterr().err
    assert not launcher.exists() or " up " not in launcher.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["up", "nowhere.yaml"], "nowhere.yaml: no such file; give local, or"),
        (["up", "--name", "../x"], "--name: '../x' is not of the right form"),
        (["up", str(ON_PREMISES), "--nodes", "3"], "--nodes: is of the kind local"),
        (["up", "--cpus-per-node", "0"], "Invalid value for '--cpus-per-node'"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: list[str], message: str, capfd: Any) -> None:
    assert main(["cluster", *arguments]) == 2
    assert message in capfd.readouterr().err
