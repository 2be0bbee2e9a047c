"""Curves and schedules as the command line names them, and what is said of those that cannot be read."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from support import make_run_directory, tiny_spec, train_on

from orchestrator.core.errors import UsageError
from orchestrator.core.run_directory import RunDirectory
from orchestrator.launch.curves import CurveReader
from orchestrator.launch.prepare import prepare
from orchestrator.spec.load import load_spec

SPEC = """\
name: tiny
recipe: {target: 'recipe.py:Tiny'}
train: {steps: 10}
batch: {global_size: 8}
optimizer: {name: sgd, lr: 0.4}
schedule: {name: polynomial, warmup: {steps: 4}}
"""
RECIPE = """\
class Tiny:
    def build_model(self): ...
    def build_datasets(self): ...
    def loss(self, model, batch): ...
"""


@pytest.fixture
def reader(tmp_path: Path) -> CurveReader:
    return CurveReader(tmp_path / "runs")


def write(path: Path, *lines: str) -> str:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def spec_file(tmp_path: Path, text: str = SPEC) -> str:
    (tmp_path / "recipe.py").write_text(RECIPE)
    return write(tmp_path / "job.yaml", text)


def test_a_csv(reader: CurveReader, tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", "step,lr,loss", "1,0.1,4", "2,0.2,3.5", "3,0.2,", "4,0.1,2.5")
    curve = reader.curve(file)
    assert (curve.name, curve.warmup_steps) == (file, 2)
    assert curve.lr.tolist() == [0.1, 0.2, 0.2, 0.1]
    assert curve.steps.tolist() == [1, 2, 4]
    assert curve.loss.tolist() == [4, 3.5, 2.5]


def test_columns_in_any_order_with_spaces_and_a_byte_order_mark(reader: CurveReader, tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", "\ufeffloss, lr, step, note", "4, 0.1, 1, x", "3, 0.1, 2, y")
    assert reader.curve(file).loss.tolist() == [4, 3]


def test_steps_between_two_rows_have_rates_between_theirs(reader: CurveReader, tmp_path: Path) -> None:
    # Every second step is logged: rise to step 4, as from 0 at step 0; then linear between rows.
    file = write(tmp_path / "a.csv", "step,lr,loss", "2,0.2,4", "4,0.4,3", "6,0.4,3", "8,0.2,3")
    curve = reader.curve(file)
    assert curve.warmup_steps == 4
    assert curve.lr == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4, 0.4, 0.3, 0.2])


@pytest.mark.parametrize(
    ("warmup_steps", "before"), [(0, [0.4] * 5), (2, [0.2, 0.4, 0.4, 0.4, 0.4]), (4, [0.1, 0.2, 0.3, 0.4, 0.4])]
)
def test_a_curve_that_was_logged_after_its_warmup(warmup_steps: int, before: list[float], tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", "step,lr,loss", "5,0.4,4", "6,0.4,3")
    curve = CurveReader(tmp_path, warmup_steps=warmup_steps).curve(file)
    assert curve.warmup_steps == warmup_steps
    assert curve.lr == pytest.approx([*before, 0.4])


def test_a_warmup_that_is_not_logged_must_be_told(reader: CurveReader, tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", "step,lr,loss", "5,0.4,4", "6,0.4,3")
    with pytest.raises(UsageError, match=r"a\.csv: line 2: the first step is 5; --warmup-steps tells"):
        reader.curve(file)


def test_another_column_or_metric_may_hold_the_loss(tmp_path: Path) -> None:
    lines = [{"step": 1, "lr": 0.1, "loss": 9}, {"step": 2, "lr": 0.1, "loss": 8, "eval/loss": 3}]
    write(tmp_path / "metrics.jsonl", *map(json.dumps, lines))
    curve = CurveReader(tmp_path, "eval/loss").curve(str(tmp_path))
    assert (curve.steps.tolist(), curve.loss.tolist(), len(curve.lr)) == ([2], [3], 2)
    with pytest.raises(UsageError, match="there is no test/loss at any step; --loss names another"):
        CurveReader(tmp_path, "test/loss").curve(str(tmp_path))


def test_a_job_of_the_storage_and_its_run_directory_are_the_same_curve(reader: CurveReader, tmp_path: Path) -> None:
    run = prepare(load_spec(spec_file(tmp_path)), reader.storage).run_directory
    with pytest.raises(UsageError, match="tiny: no step is logged yet"):
        reader.curve("tiny")
    text = '{"step": 1, "lr": 0.2, "loss": 4}\n{"step": 2, "lr": 0.1, "loss": "3"}\n{"step": 3, "lr"'
    run.metrics_file.write_text(text)
    for name in ("tiny", str(run.root)):
        assert reader.curve(name).loss.tolist() == [4, 3]
    with pytest.raises(UsageError, match=r"no tinny in .*; did you mean tiny\?"):
        reader.curve("tinny")


@pytest.mark.parametrize(
    ("schedule", "warmup_steps"),
    [
        ("schedule.warmup={steps: 4}", 4),
        ("schedule.warmup={samples: 25}", 4),
        ("schedule.warmup={fraction: 0.1}", 0),
        ("schedule.warmup=null", 0),
    ],
)
def test_the_warmup_of_a_job_is_that_of_its_spec(
    schedule: str, warmup_steps: int, reader: CurveReader, tmp_path: Path
) -> None:
    """Lines between which a warmup cannot be seen: every fifth step, and one where an evaluation fell between."""
    spec = load_spec(spec_file(tmp_path), ["schedule.warmup.steps=null", schedule])
    run = prepare(spec, reader.storage).run_directory
    write(run.metrics_file, *(json.dumps({"step": step, "lr": 0.4, "loss": 4}) for step in (5, 6, 10)))
    assert reader.curve("tiny").warmup_steps == warmup_steps
    assert CurveReader(reader.storage, warmup_steps=3).curve("tiny").warmup_steps == 3


@pytest.mark.parametrize("overrides", [["then=[{train: {steps: 5}}]"], ["schedule.warmup={steps: null, epochs: 1}"]])
def test_a_warmup_that_the_spec_does_not_tell_is_looked_for_in_the_rates(
    overrides: list[str], reader: CurveReader, tmp_path: Path
) -> None:
    run = prepare(load_spec(spec_file(tmp_path), overrides), reader.storage).run_directory
    lines = [{"step": step, "lr": 0.1 * min(step, 3), "loss": 4} for step in range(1, 6)]
    write(run.metrics_file, *map(json.dumps, lines))
    assert reader.curve("tiny").warmup_steps == 3
    write(run.metrics_file, *map(json.dumps, lines[3:]))
    with pytest.raises(UsageError, match="the first step is 4; --warmup-steps tells"):
        reader.curve("tiny")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["step,loss", "1,4"], "line 2: lr is missing; there are step, loss."),
        (["step,lr,loss", "1,,4"], "line 2: lr is missing"),
        (["step,lr,loss", "1,0.1,4", "2,fast,4"], "line 3: lr is fast; it must be a finite number."),
        (["step,lr,loss", "1,-0.1,4"], "line 2: lr is -0.1; it must be at least 0."),
        (["step,lr,loss", "0,0.1,4"], "line 2: step is 0; it must be a whole number from 1."),
        (["step,lr,loss", "1.5,0.1,4"], "line 2: step is 1.5; it must be a whole number from 1."),
        (["step,lr,loss", "1,0.1,0"], "line 2: loss is 0; it must be positive"),
        (["step,lr,loss", "1,0.1,NaN"], "line 2: loss is NaN; it must be a finite number."),
        (["step,lr,loss", "1,0.1,4", "1,0.1,4"], "line 3: step 1 follows step 1; steps must increase."),
        (["step,lr,loss", "1,0.1,4"], "fewer than 2 steps are logged."),
        (["step,lr", "1,0.1", "2,0.1"], "there is no loss at any step"),
    ],
)
def test_what_is_wrong_with_a_csv(lines: list[str], message: str, reader: CurveReader, tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", *lines)
    with pytest.raises(UsageError, match=re.escape(message)) as error:
        reader.curve(file)
    assert str(error.value).startswith(file)


def test_other_files_that_are_no_curves(reader: CurveReader, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"gone\.csv: there is no such file"):
        reader.curve(str(tmp_path / "gone.csv"))
    with pytest.raises(UsageError, match=r"job.yaml is a spec, which has no losses"):
        reader.curve(spec_file(tmp_path))
    (tmp_path / "bytes.csv").write_bytes(b"step,lr,loss\n1,0.1,\xff\n")
    with pytest.raises(UsageError, match=r"line 2: loss is .*; it must be a finite number"):
        reader.curve(str(tmp_path / "bytes.csv"))
    write(tmp_path / "metrics.jsonl", '{"step": 1, "lr": 0.1, "loss": 4}', "[]")
    with pytest.raises(UsageError, match=r"metrics.jsonl: line 2: is no JSON object"):
        reader.curve(str(tmp_path))


def test_a_schedule_without_losses_may_be_predicted(reader: CurveReader, tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", "step,lr", "1,0.2", "2,0.1")
    curve = reader.schedule(file)
    assert (curve.lr.tolist(), curve.steps.tolist(), curve.loss.tolist()) == ([0.2, 0.1], [], [])


def test_a_schedule_that_never_moves_is_refused(reader: CurveReader, tmp_path: Path) -> None:
    still = write(tmp_path / "still.csv", "step,lr", "1,0.0", "2,0.0", "3,0.0")
    with pytest.raises(UsageError, match=r"still\.csv: the rate is 0 at every step"):
        reader.schedule(still)


def test_the_schedule_of_a_spec(tmp_path: Path) -> None:
    reader = CurveReader(tmp_path, overrides=["batch.global_size=16", "scaling={rule: linear, reference_batch: 8}"])
    curve = reader.schedule(spec_file(tmp_path))
    assert curve.warmup_steps == 4
    assert curve.lr == pytest.approx([0.2, 0.4, 0.6, 0.8, *(0.8 * (1 - i / 6) for i in range(6))])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.steps=null", "train.epochs=2"], "train.epochs: its steps depend on the size of the training data"),
        (
            ["schedule.warmup.steps=null", "schedule.warmup.epochs=1"],
            "schedule.warmup.epochs: its steps depend on the size of the training data",
        ),
        (["then=[{train: {steps: 5}}]"], "then: a training of several phases has no one loss curve"),
    ],
)
def test_a_spec_that_does_not_tell_its_rates(overrides: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        CurveReader(tmp_path, overrides=overrides).schedule(spec_file(tmp_path))


def test_a_script_does_not_tell_its_rates(reader: CurveReader, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("")
    file = write(tmp_path / "script.yaml", "name: script", "script: {path: train.py}")
    with pytest.raises(UsageError, match="script: its rates are decided by the script"):
        reader.schedule(file)


@pytest.mark.parametrize("length", [{"steps": 7}, {"samples": 300}])
def test_the_rates_of_a_spec_are_those_of_its_training(length: dict[str, int], tmp_path: Path) -> None:
    schedule = {"name": "cosine", "final_fraction": 0.1, "warmup": {"fraction": 0.3}}
    scaling = {"rule": "sqrt", "reference_batch": 12}
    spec = tiny_spec(train=length, schedule=schedule, scaling=scaling)
    run = make_run_directory(tmp_path / "tiny", spec)
    ((_, lines),) = train_on(1, run)
    (run.code / "job.yaml").write_text(run.resolved_spec.read_text())
    planned = CurveReader(tmp_path).schedule(str(run.code / "job.yaml"))
    assert planned.lr == pytest.approx(np.array([line["lr"] for line in lines]))
    RunDirectory(run.root).metrics_file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    logged = CurveReader(tmp_path).curve(str(run.root))
    assert logged.lr == pytest.approx(planned.lr)
    assert logged.warmup_steps == planned.warmup_steps
