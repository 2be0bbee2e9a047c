"""`orchestrator compare`: what differs, what it came to and what it cost, side by side."""

import json
from pathlib import Path

import pytest
from cli.conftest import SPEC, Command
from cli.page_jobs import STARTED_AT, write_event

from orchestrator.core.run_directory import RunDirectory
from orchestrator.launch.prepare import prepare
from orchestrator.spec.load import load_spec

SWEEP = "sweep: {optimizer.lr: [0.1, 0.2], train.seed: [0, 1]}\nresources: {workers: 2}\n"


def trained(run: RunDirectory, *losses: float, end: str = "succeeded", reason: str | None = None) -> None:
    """An evaluation after each tenth step, and two workers for half an hour."""
    write_event(run, STARTED_AT, "placed", attempt=1, workers=2)
    write_event(run, STARTED_AT + 1800, end, reason=reason, message="so it ended")
    lines = []
    for number, loss in enumerate(losses, 1):
        line = {"step": 10 * number, "time": STARTED_AT + 60 * number, "samples": 1280 * number, "loss": loss + 1}
        lines.append(json.dumps({**line, "eval/loss": loss, "eval/accuracy": 1 - loss / 10}) + "\n")
    run.metrics_file.write_text("".join(lines))
    times = {"started_at": STARTED_AT, "finished_at": STARTED_AT + 1800 + 65}
    run.update_state(phase=end, reason=reason, **times)


@pytest.fixture
def sweep(spec: Path, storage: Path) -> RunDirectory:
    spec.write_text(SPEC + SWEEP)
    run = prepare(load_spec(spec), storage).run_directory
    trained(run.trial(0), 2.5, 0.75, 0.8)
    trained(run.trial(1), 2.25, 0.5, 0.25)
    trained(run.trial(2), 4.0, end="stopped", reason="pruned")
    run.update_state(phase="running", driver=None, submitter=None)
    return run


@pytest.fixture
def alone(spec: Path, storage: Path, sweep: RunDirectory) -> RunDirectory:
    spec.write_text(f"{SPEC}optimizer: lamb\n".replace("name: tiny", "name: alone"))
    run = prepare(load_spec(spec), storage).run_directory
    trained(run, 1.5)
    return run


TABLE = """\
JOB     train.seed  optimizer.lr  PHASE      STEPS  SAMPLES  WALL TIME     WORKER-HOURS  eval/loss  eval/accuracy  BEST eval/loss  AT
tiny/0  0           0.1           succeeded  30     3,840    31 min 05 s   1             0.8        0.92           0.75            step 20
tiny/1  1           0.1           succeeded  30     3,840    31 min 05 s   1             0.25       0.975          0.25            step 30
tiny/2  0           0.2           pruned     10     1,280    31 min 05 s   1             4          0.6            4               step 10
tiny/3  1           0.2           queued

best: tiny/1, eval/loss 0.25 at step 30
"""  # noqa: E501 - as it is printed


def squeezed(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_a_sweep_stands_for_its_trials(cli: Command, sweep: RunDirectory, storage: Path) -> None:
    answer = cli("compare", "tiny", "--storage", storage)
    assert (answer.code, answer.err) == (0, "")
    assert squeezed(answer.out) == squeezed(TABLE)


def test_only_what_differs_is_shown(cli: Command, alone: RunDirectory, storage: Path) -> None:
    header, *rows = squeezed(cli("compare", "alone", "tiny", "--storage", storage).out)
    assert header[:2] == ["JOB", "train.seed"]
    paths = header[1 : header.index("PHASE")]
    assert {"optimizer.name", "optimizer.lr", "resources.workers", "tracking.experiment"} <= {*paths}
    assert "name" not in paths
    assert [row[0] for row in rows[:5]] == ["alone", "tiny/0", "tiny/1", "tiny/2", "tiny/3"]


def test_jobs_that_are_alike_differ_in_nothing(cli: Command, sweep: RunDirectory, storage: Path) -> None:
    compared = json.loads(cli("compare", "tiny", "tiny", "--storage", storage, "--json").out)
    assert [job["name"] for job in compared["jobs"]] == ["tiny/0", "tiny/1", "tiny/2", "tiny/3"], "named once"


def test_the_metric_decides_who_is_best(cli: Command, sweep: RunDirectory, storage: Path) -> None:
    def last_line(*options: str) -> str:
        return cli("compare", "tiny", "--storage", storage, *options).out.splitlines()[-1]

    assert last_line("--metric", "eval/accuracy") == "best: tiny/1, eval/accuracy 0.975 at step 30"
    assert last_line("--metric", "loss") == "best: tiny/1, loss 1.25 at step 30"
    assert last_line("--metric", "loss", "--mode", "max") == "best: tiny/2, loss 5 at step 10"
    answer = cli("compare", "tiny", "--storage", storage, "--metric", "eval/los")
    assert answer.err == "no job has logged eval/los; there are eval/accuracy, eval/loss, loss, samples, time.\n"
    assert answer.code == 0


def test_as_json(cli: Command, sweep: RunDirectory, storage: Path) -> None:
    compared = json.loads(cli("compare", "tiny", "--storage", storage, "--json").out)
    assert {key: compared[key] for key in ("metric", "mode", "best")} == {
        "metric": "eval/loss",
        "mode": "min",
        "best": "tiny/1",
    }
    assert compared["jobs"][2] == {
        "name": "tiny/2",
        "run_directory": str(sweep.trial(2).root),
        "values": {"train.seed": 0, "optimizer.lr": 0.2},
        "phase": "stopped",
        "reason": "pruned",
        "steps": 10,
        "samples": 1280,
        "wall_time_s": 1865.0,
        "worker_hours": 1.0,
        "evaluation": {"eval/loss": 4.0, "eval/accuracy": 0.6},
        "best": {"value": 4.0, "step": 10},
    }
    waits = compared["jobs"][3]
    assert (waits["steps"], waits["best"], waits["worker_hours"], waits["wall_time_s"]) == (None, None, None, None)


def test_curves_as_a_picture_and_as_a_page(cli: Command, sweep: RunDirectory, storage: Path, tmp_path: Path) -> None:
    picture, page = tmp_path / "curves.png", tmp_path / "curves.html"
    answer = cli("compare", "tiny", "--storage", storage, "--plot", picture, "--over", "time")
    assert answer.err == f"curves in {picture}\n"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert cli("compare", "tiny", "--storage", storage, "--plot", page).code == 0
    text = page.read_text()
    assert "<td>tiny/1</td><td>1</td><td>0.1</td>" in text or "<td>tiny/1</td><td>0.1</td><td>1</td>" in text
    assert "Best: tiny/1." in text
    assert "tiny/0: last 0.8 at step 30." in text
    assert ">samples<" in text
    assert "http://" not in text.replace("http://www.w3.org", "")
    assert [text.count(f'<section id="{name}">') for name in ("loss", "eval-loss")] == [1, 1]
    refused = cli("compare", "tiny", "--storage", storage, "--plot", page)
    assert (refused.code, refused.err) == (
        2,
        f"error: --plot: {page} exists; name another file, or replace it with --force.\n",
    )
    assert "must end in .png or .html" in cli("compare", "tiny", "--storage", storage, "--plot", "x.pdf").err


def test_nothing_to_draw(cli: Command, spec: Path, storage: Path, tmp_path: Path) -> None:
    prepare(load_spec(spec), storage)
    answer = cli("compare", "tiny", "--storage", storage, "--plot", tmp_path / "curves.png")
    assert answer.code == 0
    assert answer.err.startswith("no job has logged loss or anything else.\n--plot: nothing is logged")
    assert not (tmp_path / "curves.png").exists()


def test_a_job_that_is_not_there(cli: Command, sweep: RunDirectory, storage: Path) -> None:
    answer = cli("compare", "tiny", "tinny", "--storage", storage)
    assert answer.code == 2
    assert "did you mean tiny?" in answer.err
