"""Records of workers' times as the command line names them, and what is said of those that cannot be read."""

import json
from pathlib import Path

import numpy as np
import pytest
from support import make_run_directory, tiny_spec

from orchestrator.core.errors import UsageError
from orchestrator.core.run_directory import RunDirectory
from orchestrator.core.worker_times import StepTimes, WorkerTimesWriter
from orchestrator.launch.worker_records import read_record
from orchestrator.simulate.stragglers.recorded import Record

STEPS = [StepTimes(step, (0.1 * step, 0.5, None, 0.7), (100, 200, None, 400)) for step in range(1, 6)]


def read(name: Path | str, max_steps: int = 100) -> Record:
    return read_record(str(name), Path("runs"), max_steps=max_steps)


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def recorded_job(root: Path, **sections: object) -> RunDirectory:
    run = make_run_directory(root, tiny_spec(**sections))
    writer = WorkerTimesWriter(run.worker_times_file, last_step=0)
    for times in STEPS:
        writer.add(times)
    writer.flush()
    return run


def test_a_job_by_its_folder_and_by_its_name(tmp_path: Path) -> None:
    run = recorded_job(tmp_path / "runs" / "job")
    by_name = read_record("job", tmp_path / "runs", max_steps=100)
    for record in (by_name, read(run.root)):
        assert record.steps.tolist() == [2, 3, 4, 5]  # the first one is no sample
        assert record.seconds[:, 0].tolist() == pytest.approx([0.2, 0.3, 0.4, 0.5])
        assert np.isnan(record.seconds[:, 2]).all()
        assert np.isnan(record.elements[:, 2]).all()
        assert record.elements[0, 3] == 400
        assert (record.num_workers, record.load, record.in_order) == (4, 1 / 4, True)
    assert read(run.root, max_steps=2).steps.tolist() == [4, 5]


@pytest.mark.parametrize(
    ("exchange", "load", "in_order"),
    [
        ({"scheme": "fractional", "stragglers": 1}, 2 / 4, False),
        ({"scheme": "ignore"}, 1 / 4, False),
        ({"scheme": "uncoded"}, 1 / 4, True),
    ],
)
def test_a_coded_job_computed_what_its_scheme_asks_for(
    exchange: dict[str, object], load: float, in_order: bool, tmp_path: Path
) -> None:
    run = recorded_job(tmp_path / "job", exchange={"name": "coded", **exchange})
    record = read(run.root)
    assert (record.load, record.in_order) == (load, in_order)


def test_a_csv(tmp_path: Path) -> None:
    record = read(write(tmp_path / "times.csv", "0.5,1.5", "2, 3e-1", ",4"))
    assert record.steps.tolist() == [1, 2, 3]
    assert record.seconds[:2].tolist() == [[0.5, 1.5], [2, 0.3]]
    assert np.isnan(record.seconds[2, 0])
    assert record.seconds[2, 1] == 4
    assert np.isnan(record.elements).all()
    assert (record.load, record.in_order) == (1 / 2, True)
    assert read(tmp_path / "times.csv", max_steps=2).steps.tolist() == [2, 3]


def test_a_jsonl_of_lists_and_of_objects(tmp_path: Path) -> None:
    lines = ["[1, 2]", "[null, 2.5]", json.dumps({"step": 12, "seconds": [3, 4], "elements": [10, None]})]
    record = read(write(tmp_path / "times.jsonl", *lines))
    assert record.steps.tolist() == [1, 2, 12]
    assert record.seconds[[0, 2]].tolist() == [[1, 2], [3, 4]]
    assert np.isnan(record.seconds[1, 0])
    assert record.elements[2, 0] == 10
    assert np.isnan(record.elements[:2]).all()


@pytest.mark.parametrize(
    ("name", "lines", "message"),
    [
        ("a.csv", ["1,2", "1,2,3"], "a.csv: line 2: has 3 numbers; there must be 2, one for each worker."),
        ("a.csv", ["1,soon"], "a.csv: line 1: seconds is soon; it must be a finite number of at least 0."),
        ("a.csv", ["1,-2"], "seconds is -2; it must be a finite number of at least 0."),
        ("a.csv", ["1,inf"], "seconds is inf; it must be a finite number"),
        ("a.csv", ["1,2", "", "1,2"], "a.csv: line 2: has 0 numbers; there must be 2, one for each worker."),
        ("a.jsonl", ["[1, 2]", "[1,"], "a.jsonl: line 2: is no JSON."),
        ("a.jsonl", ["[]"], "a.jsonl: line 1: has 0 numbers; there must be at least one."),
        ("a.jsonl", ["7"], "seconds is 7; it must be a list with a number for each worker."),
        ("a.jsonl", ['{"step": 1}'], "seconds is null; it must be a list"),
        ("a.jsonl", ['{"seconds": [1, 2], "elements": [1]}'], "has 1 numbers; there must be 2, one for each worker."),
        ("a.jsonl", ['{"seconds": [1, NaN]}'], "seconds is nan; it must be a finite number"),
        ("a.jsonl", ['{"seconds": [1], "step": "x"}'], "step is x; it must be a finite number of at least 0."),
    ],
)
def test_files_that_cannot_be_read(name: str, lines: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        read(write(tmp_path / name, *lines))
    assert message in str(caught.value)


def test_what_is_not_there(tmp_path: Path) -> None:
    for name in ("gone.csv", "gone.jsonl"):
        with pytest.raises(UsageError, match=f"{name}: there is no such file"):
            read(tmp_path / name)
    with pytest.raises(UsageError, match="job: no gone in"):
        read_record("gone", tmp_path, max_steps=9)
    (tmp_path / "empty.csv").touch()
    run = make_run_directory(tmp_path / "job", tiny_spec())
    for name in (tmp_path / "empty.csv", run.root):
        with pytest.raises(UsageError, match="no times of workers are recorded"):
            read(name)
