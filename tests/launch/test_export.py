"""`export`: the weights of any checkpoint in one file, from any engine."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from gloo import run_on_ranks
from safetensors.torch import load_file
from support import make_run_directory, tiny_spec, train_here

from orchestrator.cli.main import main
from orchestrator.core.errors import CheckpointError, UsageError
from orchestrator.core.run_directory import RunDirectory
from orchestrator.launch.export import export
from orchestrator.spec.job import ScriptJobSpec
from orchestrator.spec.load import dump_resolved


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A finished job of two ranks under FSDP2 with checkpoints of steps 4 and 6."""
    spec = tiny_spec(engine={"name": "fsdp2"}, resources={"workers": 2}, checkpoint={"every": 4})
    directory = make_run_directory(tmp_path_factory.mktemp("runs") / "tiny", spec)
    run_on_ranks(2, train_here, str(directory.root))
    return directory


@pytest.fixture
def run(sharded: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    """A copy of it to damage, in the storage that the command line uses."""
    shutil.copytree(sharded.root, tmp_path / "runs" / "tiny")
    monkeypatch.setenv("ORCHESTRATOR_STORAGE", str(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)
    return RunDirectory(tmp_path / "runs" / "tiny")


@pytest.mark.distributed
def test_the_last_checkpoint_of_sharded_ranks_is_the_jobs_model(
    run: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "tiny"]) == 0
    printed = capsys.readouterr()
    file = tmp_path / "tiny.safetensors"
    expected, got = load_file(run.model_file), load_file(file)
    assert expected.keys() == got.keys()
    assert all(torch.equal(tensor, got[name]) for name, tensor in expected.items())
    assert printed.err == ""
    assert printed.out.startswith(f"{file}: step 6, {len(got)} tensors, ")
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["tiny.safetensors"]


@pytest.mark.distributed
def test_any_checkpoint_as_json(run: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "models").mkdir()
    assert main(["export", "tiny", "--step", "4", "--output", "models", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    file = tmp_path / "models" / "tiny.safetensors"
    got = load_file(file)
    assert said == {"file": str(file), "step": 4, "tensors": len(got), "bytes": file.stat().st_size}
    last = load_file(run.model_file)
    assert any(not torch.equal(tensor, last[name]) for name, tensor in got.items())


@pytest.mark.distributed
def test_a_file_is_replaced_only_by_force(run: RunDirectory, tmp_path: Path) -> None:
    file = tmp_path / "mine.safetensors"
    file.write_text("precious")
    with pytest.raises(UsageError, match=r"--output: .*mine.safetensors exists; .*--force"):
        export(run, step=None, output=file, force=False)
    assert file.read_text() == "precious"
    export(run, step=None, output=file, force=True)
    assert load_file(file).keys() == load_file(run.model_file).keys()


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tine"], "job: no tine in"),
        (["tiny", "--step", "5"], "--step: tiny has no checkpoint of step 5; there are those of steps 4, 6."),
        (["tiny", "--output", "nowhere/x.safetensors"], "--output: there is no folder"),
        (["tiny", "--step", "-1"], "Invalid value for '--step'"),
    ],
)
def test_what_cannot_be_done_is_one_clear_error(
    run: RunDirectory, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["export", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert message in printed.err


@pytest.mark.distributed
def test_a_damaged_checkpoint_is_one_clear_error(
    run: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    next((run.checkpoints / "step_6").glob("*.distcp")).unlink()
    assert main(["export", "tiny"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {run.checkpoints / 'step_6'}: the tensors cannot be read")
    assert [path for path in tmp_path.iterdir() if path.is_file()] == []


def test_a_job_without_a_checkpoint(tmp_path: Path) -> None:
    directory = make_run_directory(tmp_path / "tiny", tiny_spec())
    with pytest.raises(UsageError, match="tiny has no checkpoint yet"):
        export(directory, step=None, output=tmp_path, force=False)


def test_a_script_keeps_its_own_checkpoints(tmp_path: Path) -> None:
    spec = ScriptJobSpec.model_validate({"name": "tiny", "script": {"path": "train.py"}})
    directory = RunDirectory(tmp_path / "tiny")
    directory.root.mkdir()
    directory.resolved_spec.write_text(dump_resolved(spec), encoding="utf-8")
    with pytest.raises(UsageError, match="tiny runs a script"):
        export(directory, step=None, output=tmp_path, force=False)


def test_a_file_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    directory = make_run_directory(tmp_path / "tiny", tiny_spec(train={"steps": 1}))
    train_here(str(directory.root))
    with pytest.raises(CheckpointError, match="cannot be written"):
        export(directory, step=None, output=tmp_path / ("x" * 250), force=False)
