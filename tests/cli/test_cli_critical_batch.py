"""`orchestrator critical-batch` over curves that are made up: the table, the picture, and what is refused at once."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from orchestrator.cli.main import main
from orchestrator.core.run_directory import RunDirectory
from orchestrator.launch.branches import Branch, Study
from orchestrator.simulate.critical_batch import LossCurve

RECIPE = """
class Tiny:
    def build_model(self): ...

    def build_datasets(self): ...

    def loss(self, model, batch): ...
"""


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    (tmp_path / "recipe.py").write_text(RECIPE, encoding="utf-8")
    content = {
        "name": "tiny",
        "recipe": {"target": "recipe.py:Tiny"},
        "train": {"steps": 9},
        "batch": {"global_size": 64},
    }
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump({**content, "resources": {"workers": 2}}), encoding="utf-8")
    return file


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int]:
    """Trunk and branches that are not trained: losses fall as with 20 + 4,000 / batch steps to a loss."""
    trained: list[int] = []

    def trunk(self: Study) -> RunDirectory:
        run = RunDirectory(tmp_path)
        run.event("batch", {"noise_scale": 150.0})
        return run

    def branch(self: Study, branch: Branch, run: RunDirectory) -> LossCurve:
        trained.append(branch.batch)
        steps = np.arange(self.branch_samples // branch.batch)
        return LossCurve(branch.batch, steps * float(branch.batch), 9 - steps / (20 + 4000 / branch.batch))

    monkeypatch.setattr(Study, "train_trunk", trunk)
    monkeypatch.setattr(Study, "train_branch", branch)
    return trained


def run(capsys: pytest.CaptureFixture[str], *arguments: Any) -> tuple[int, str, str]:
    code = main(["critical-batch", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_both_definitions_are_told_by_name(spec: Path, made_up: list[int], capsys: pytest.CaptureFixture[str]) -> None:
    picture = spec.parent / "picture.png"
    code, out, _ = run(capsys, spec, "--factors", "0.25,1,4,16", "--plot", picture)
    assert code == 0
    assert made_up == [16, 64, 256, 1024]
    assert "critical batch, McCandlish (least samples / least steps): " in out
    assert "critical batch, 20% more steps than linear from 16: " in out
    assert "gradient noise scale at the end of the trunk: 150" in out
    assert "Advice, by the 20% definition: batch " in out
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_document_holds_the_numbers(spec: Path, made_up: list[int], capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, spec, "--factors", "0.25,1,4,16", "--json")
    document = json.loads(out)
    critical = document["critical_batch"]
    assert critical["mccandlish"] == pytest.approx(200, rel=0.01)
    assert critical["overhead_20_percent"] == pytest.approx(0.2 * critical["mccandlish"] + 1.2 * 16)
    assert [row["batch"] for row in document["branches"]] == [16, 64, 256, 1024]
    assert document["noise_scale"] == 150.0
    advice = document["advice"]
    assert advice["batch"] == round(critical["overhead_20_percent"])
    # AdamW: the root; and as many samples per worker as now.
    assert advice["lr"] == pytest.approx(0.001 * (advice["batch"] / 64) ** 0.5)
    assert advice["workers"] == round(advice["batch"] / 32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--factors", "1,2"], "at least 3 different positive numbers"),
        (["--factors", "1,-2,3"], "at least 3 different positive numbers"),
        (["--factors", "1,two,3"], "is no list of numbers"),
        (["--factors", "0.001,1,2"], "batch.global_size"),
        (["--plot", "picture.pdf"], "must end in .png"),
        (["--set", "train.stepz=3"], "train.stepz"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_trained(
    arguments: list[str], message: str, spec: Path, made_up: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, spec, *arguments)
    assert (code, out, made_up) == (2, "", [])
    assert message in err


def test_a_script_has_no_branches(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "train.py").write_text("", encoding="utf-8")
    file = tmp_path / "job.yaml"
    file.write_text("name: s\nscript: {path: train.py}\n", encoding="utf-8")
    code, _, err = run(capsys, file)
    assert code == 2
    assert "branches need a recipe" in err
