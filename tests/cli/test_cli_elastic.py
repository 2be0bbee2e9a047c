"""What the command line tells of a job whose number of workers is a range."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.run_directory import RunDirectory
from orchestrator.launch.prepare import prepare
from orchestrator.spec.load import load_spec

RANGE = "resources.workers={min: 2, max: 8}"
PLACE = {"priority": 0, "owner": "ann", "position": 0, "workers": 4, "gpus": 0.0, "cpus": 4.0, "max_workers": 8}


@pytest.fixture
def run(spec: Path, storage: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    """An elastic job that has four workers now."""
    monkeypatch.setattr("orchestrator.launch.control.reconcile", lambda run: run.read_state())
    directory = prepare(load_spec(spec, [RANGE]), storage).run_directory
    directory.update_state(phase="running", attempts=2, num_workers=4, worker_range={"min": 2, "max": 8}, queue=PLACE)
    return directory


def test_plan_shows_every_number_and_marks_those_of_the_range(cli: Any, spec: Path, storage: Path) -> None:
    arguments = ("plan", spec, "--storage", storage, "--set", RANGE, "--set", "batch.global_size=32")
    out = cli(*arguments).out
    assert "2 to 8 workers, as many as there is room for, with 1 CPU and 0 GPUs each, pack" in out
    rows = out[out.index("SAMPLES PER WORKER") :].split("\n\n")[0].splitlines()[1:]
    assert [row.split()[1] for row in rows if row.startswith(">")] == [str(number) for number in range(2, 9)]
    planned = json.loads(cli(*arguments, "--json").out)
    assert (planned["workers"], planned["max_workers"]) == (2, 8)


def test_check_says_which_numbers_do_not_go(cli: Any, spec: Path) -> None:
    answer = cli("check", spec, "--set", RANGE, "--set", "batch.global_size=6")
    assert answer.code == 2
    assert "batch.global_size = 6: with 7 to 8 workers: 6 / 8 workers" in answer.err


def test_status_watch_queue_and_report_tell_the_number_and_the_range(
    cli: Any, run: RunDirectory, storage: Path
) -> None:
    status = cli("status", "tiny", "--storage", storage).out
    assert ["workers", "4 of 2 to 8"] in [line.split(maxsplit=1) for line in status.splitlines()]
    assert "4 of 2 to 8 workers" in cli("watch", "--once", "--storage", storage).out
    assert "4 CPUs, 4 of up to 8 workers" in cli("queue", "--storage", storage).out
    assert cli("report", "tiny", "--storage", storage).code == 0
    assert "4 of 2 to 8" in run.report_file.read_text(encoding="utf-8")


def test_what_is_asked_for_is_told_where_it_is_another_number(
    cli: Any, run: RunDirectory, spec: Path, storage: Path
) -> None:
    for wanted, expected in ((4, "4 of 2 to 8"), (6, "4 (asks for 6) of 2 to 8")):
        run.update_state(workers_wanted=wanted)
        status = cli("status", "tiny", "--storage", storage).out
        assert ["workers", expected] in [line.split(maxsplit=1) for line in status.splitlines()]
    asking = RANGE.replace("}", ", samples_per_worker: 8}")
    out = cli("plan", spec, "--storage", storage, "--set", asking, "--set", "batch.global_size=32").out
    assert "2 to 8 workers, as many as it asks for (4 at first), with 1 CPU" in out


def test_other_jobs_are_told_of_as_before(cli: Any, run: RunDirectory, storage: Path) -> None:
    run.update_state(worker_range=None, queue={key: PLACE[key] for key in PLACE if key != "max_workers"})
    for command in (("status", "tiny"), ("watch", "--once"), ("queue",)):
        assert "workers" not in cli(*command, "--storage", storage).out
