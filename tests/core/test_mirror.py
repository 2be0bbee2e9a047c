"""Copies of run directories in folders, in memory and in a real S3 server, and what interrupts the copying."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from orchestrator.core.errors import OutOfReachError, UsageError
from orchestrator.core.mirror import RECORD, Mirror
from orchestrator.core.run_directory import RunDirectory


def write(root: Path, files: dict[str, str]) -> None:
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)


def read(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): path.read_text()
        for path in root.rglob("*")
        if path.is_file() and not path.is_symlink() and path.name != RECORD
    }


FILES = {
    "job.yaml": "name: digits\n",
    "state.json": '{"phase": "running", "step": 20}',
    "events.jsonl": '{"event": "started"}\n',
    "code/recipe.py": "class Digits: ...\n",
    "checkpoints/step_20/model.safetensors": "weights of 20",
    "checkpoints/step_20/.metadata": "what is where",
    "checkpoints/LATEST": "step_20",
}


@pytest.fixture
def job(tmp_path: Path) -> RunDirectory:
    write(tmp_path / "storage" / "digits", FILES)
    return RunDirectory(tmp_path / "storage" / "digits")


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The endpoint of a server that speaks S3."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    endpoint = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        [Path(sys.executable).with_name("moto_server"), "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        while True:
            assert process.poll() is None
            try:
                urllib.request.urlopen(f"{endpoint}/moto-api/data.json", timeout=5).close()
                break
            except OSError:
                time.sleep(0.2)
        yield endpoint
    finally:
        process.kill()
        process.wait()


@pytest.fixture(params=["file", "memory", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "file":
        return f"file://{tmp_path}/copies"
    if request.param == "memory":
        return f"memory://{tmp_path.name}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", request.getfixturevalue("s3"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    bucket = f"runs-{uuid.uuid4().hex}"
    fsspec.filesystem("s3").mkdir(bucket)
    return f"s3://{bucket}/of-us"


def test_what_comes_back_is_what_was_there(job: RunDirectory, url: str, tmp_path: Path) -> None:
    mirror = Mirror(url)
    mirror.check()
    assert mirror.names() == []
    assert mirror.push(job) == 5
    assert (mirror.names(), mirror.state("digits")["step"]) == (["digits"], 20)
    back = RunDirectory(tmp_path / "back")
    back.root.mkdir()
    assert mirror.pull("digits", back) == len(FILES)
    assert read(back.root) == FILES
    # Nothing has to travel twice, there or here.
    assert (mirror.push(job), Mirror(url).push(job)) == (0, 0)


def test_only_what_has_changed_travels_and_what_is_gone_goes(job: RunDirectory, url: str, tmp_path: Path) -> None:
    mirror = Mirror(url)
    mirror.push(job)
    shutil.rmtree(job.checkpoints / "step_20")
    later = {
        "checkpoints/step_40/model.safetensors": "weights of 40",
        "checkpoints/LATEST": "step_40",
        "events.jsonl": FILES["events.jsonl"] + '{"event": "saved"}\n',
        "state.json": '{"phase": "succeeded", "step": 40}',
    }
    write(job.root, later)
    assert mirror.push(job) == 2
    assert mirror.state("digits")["phase"] == "succeeded"
    back = RunDirectory(tmp_path / "back")
    back.root.mkdir()
    mirror.pull("digits", back)
    expected = {**FILES, **later}
    del expected["checkpoints/step_20/model.safetensors"], expected["checkpoints/step_20/.metadata"]
    assert read(back.root) == expected


def test_the_unfinished_and_links_stay_here(job: RunDirectory, tmp_path: Path) -> None:
    write(
        job.root,
        {"checkpoints/.step_30/half": "", ".state.json.7.tmp": "", "trials/0/state.json": '{"phase": "failed"}'},
    )
    (job.root / "trials/0/code").symlink_to("../../code")
    mirror = Mirror(f"file://{tmp_path}/copies")
    mirror.push(job)
    copied = set(read(tmp_path / "copies" / "digits"))
    assert copied == {*FILES, "trials/0/state.json"}
    back = RunDirectory(tmp_path / "back")
    back.root.mkdir()
    mirror.pull("digits", back)
    # A trial finds the job's code again.
    assert (back.trial(0).code / "recipe.py").read_text() == FILES["code/recipe.py"]


def test_latest_never_names_what_is_not_there_yet(
    job: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = Mirror(f"file://{tmp_path}/copies")
    mirror.push(job)
    write(job.root, {"checkpoints/step_40/model.safetensors": "weights of 40", "checkpoints/LATEST": "step_40"})
    put = mirror._files.put_file

    def break_off(local: str, remote: str) -> None:
        if "step_40" in local:
            raise TimeoutError("the connection broke off")
        put(local, remote)

    monkeypatch.setattr(mirror._files, "put_file", break_off)
    with pytest.raises(OutOfReachError, match="cannot take the copy: the connection broke off"):
        mirror.push(job)
    copy = tmp_path / "copies" / "digits" / "checkpoints"
    assert (copy / "LATEST").read_text() == "step_20"
    assert (copy / "step_20" / "model.safetensors").exists()
    monkeypatch.setattr(mirror._files, "put_file", put)
    assert mirror.push(job) == 1
    assert (copy / "LATEST").read_text() == "step_40"


def test_a_checkpoint_that_goes_meanwhile_leaves_the_old_one_in_charge(
    job: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = Mirror(f"file://{tmp_path}/copies")
    put = mirror._files.put_file

    def thin_out(local: str, remote: str) -> None:
        if "step_20" in local:
            shutil.rmtree(job.checkpoints / "step_20")
            write(job.root, {"checkpoints/step_40/model.safetensors": "of 40", "checkpoints/LATEST": "step_40"})
        put(local, remote)

    monkeypatch.setattr(mirror._files, "put_file", thin_out)
    mirror.push(job)
    copy = tmp_path / "copies" / "digits"
    assert not (copy / "checkpoints" / "LATEST").exists()
    assert not (copy / "state.json").exists()
    monkeypatch.setattr(mirror._files, "put_file", put)
    mirror.push(job)
    assert read(copy) == read(job.root)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nosuch://bucket", "mirror: nosuch://bucket cannot be opened: "),
        ("s3://", "mirror: s3:// is no URL; legal: such as s3://bucket/runs"),
        ("/srv/runs", "mirror: /srv/runs is no URL"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused(url: str, message: str) -> None:
    with pytest.raises((UsageError, OutOfReachError), match=message):
        Mirror(url).check()


def test_a_server_that_does_not_answer_is_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    fsspec.filesystem("s3").clear_instance_cache()
    with pytest.raises(OutOfReachError, match="mirror: s3://bucket cannot take a file: "):
        Mirror("s3://bucket").check()
    fsspec.filesystem("s3").clear_instance_cache()


def test_no_such_job(tmp_path: Path) -> None:
    mirror = Mirror(f"file://{tmp_path}")
    with pytest.raises(UsageError, match=f"mirror: no digits in file://{tmp_path}"):
        mirror.pull("digits", RunDirectory(tmp_path / "back"))
    assert os.listdir(tmp_path) == []
