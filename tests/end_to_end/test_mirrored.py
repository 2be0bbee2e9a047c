"""A storage that is lost, a job that goes on from its copy, and the same weights as if nothing had happened."""

import json
import shutil
from pathlib import Path

import psutil
import pytest
from end_to_end.user import assert_ended_alike, lines, run, start, state, steps, wait_until, write_job

pytestmark = [pytest.mark.ray, pytest.mark.distributed, pytest.mark.timeout(400)]
STEPS = 60
SPEC = """
name: copied
recipe: {{target: 'tiny.py:Digits', args: {{sleep_s: {sleep_s}}}}}
train: {{steps: 60}}
batch: {{global_size: 96}}
checkpoint: {{every: 5, keep: 2}}
tracking: {{system_metrics_every_s: null}}
{more}
"""


def test_a_lost_storage_is_brought_back(tmp_path: Path) -> None:
    copies = f"file://{tmp_path / 'copies'}"
    storage, undisturbed = tmp_path / "runs", tmp_path / "undisturbed"
    code, output = run("run", write_job(tmp_path / "plain", SPEC.format(sleep_s=0, more="")), "--storage", undisturbed)
    assert code == 0, output
    spec = write_job(tmp_path / "job", SPEC.format(sleep_s=0.4, more=f"mirror: {copies}"))
    process = start("run", spec, "--storage", storage)
    latest = tmp_path / "copies" / "copied" / "checkpoints" / "LATEST"
    wait_until(latest.exists, "a checkpoint in the copy")
    writers = [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if any(word in " ".join(child.cmdline()) for word in ("orchestrator.", "RayTrainWorker"))
    ]
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(writers, timeout=60)
    assert alive == []
    copied = int(latest.read_text().removeprefix("step_"))
    shutil.rmtree(storage)

    code, output = run("fetch", "--mirror", copies, "--json")
    assert code == 0, output
    (listed,) = json.loads(output)
    assert (listed["name"], listed["phase"]) == ("copied", "running")
    code, output = run("fetch", "copied", "--mirror", copies, "--storage", storage)
    assert code == 0, output
    assert "`orchestrator resume copied` goes on" in output
    code, output = run("fetch", "copied", "--mirror", copies, "--storage", storage)
    assert (code, "job copied exists" in output) == (2, True)
    code, output = run("resume", "copied", "--storage", storage)
    assert code == 0, output
    (resumed,) = [e for e in lines(storage / "copied" / "events.jsonl") if e["event"] == "resumed"]
    assert resumed["step"] == copied
    assert steps(storage / "copied") == list(range(1, STEPS + 1))
    assert_ended_alike(undisturbed / "copied", storage / "copied", STEPS)
    # The copy is as complete as the job.
    assert state(tmp_path / "copies" / "copied")["phase"] == "succeeded"
    assert (tmp_path / "copies" / "copied" / "model.safetensors").exists()


def test_a_mirror_that_cannot_be_written_stops_the_job_before_it_exists(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    spec = write_job(tmp_path / "job", SPEC.format(sleep_s=0, more=f"mirror: file://{tmp_path}/file/copies"))
    code, output = run("run", spec, "--storage", tmp_path / "runs")
    assert code == 5, output
    assert f"mirror: file://{tmp_path}/file/copies cannot take a file: " in output
    assert not (tmp_path / "runs" / "copied").exists()
