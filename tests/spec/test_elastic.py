"""A range of workers: how it is written, what it means for the rest of a spec, and how it is changed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from spec.bad_spec import GOOD
from spec.loading import load

from orchestrator.spec.check_elastic import numbers_text
from orchestrator.spec.elastic import first_wish, is_elastic, with_workers, within_range, worker_numbers
from orchestrator.spec.load import dump_resolved, load_resolved, spec_hash
from orchestrator.spec.schema import job_schema

RANGE = f"name: tiny\n{GOOD}resources: {{workers: {{min: 2, max: 5}}}}\n"


def test_a_range_is_read_written_and_read_again(folder: Path) -> None:
    spec = load(folder, RANGE).spec
    assert (str(spec.resources.workers), spec.resources.num_workers, spec.resources.max_workers) == ("2 to 5", 2, 5)
    assert is_elastic(spec)
    assert list(worker_numbers(spec)) == [2, 3, 4, 5]
    (folder / "resolved.yaml").write_text(dump_resolved(spec), encoding="utf-8")
    assert load_resolved(folder / "resolved.yaml") == spec


def test_a_number_is_a_range_of_one(folder: Path) -> None:
    spec = load(folder, RANGE, "resources.workers=3").spec
    assert (spec.resources.workers, spec.resources.num_workers, spec.resources.max_workers) == (3, 3, 3)
    assert not is_elastic(spec)
    assert list(worker_numbers(spec)) == [3]


def test_an_attempt_is_a_job_with_one_number(folder: Path) -> None:
    spec = load(folder, RANGE).spec
    attempt = with_workers(spec, 4)
    assert attempt.resources.workers == 4
    assert with_workers(attempt, 3) == load(folder, RANGE, "resources.workers=3").spec
    assert spec_hash(attempt) == spec_hash(spec)  # so checkpoints go from one to the other


def test_a_range_takes_overrides_and_a_place_in_bases(folder: Path) -> None:
    assert load(folder, RANGE, "resources.workers.max=8").spec.resources.max_workers == 8
    on_base = load(folder, f"base: cpu.yaml\n{GOOD}resources: {{workers: {{max: 4}}}}\n", cpu=RANGE)
    assert str(on_base.spec.resources.workers) == "2 to 4"


@pytest.mark.parametrize(("size", "engine"), [(5, "ddp"), (64, "{name: fsdp2, mesh: {replicate: 1}}")])
def test_what_goes_with_every_number_is_accepted(size: int, engine: str, folder: Path) -> None:
    assert load(folder, f"{RANGE}batch: {{global_size: {size}}}\nengine: {engine}\n").spec.batch.global_size == size


def test_what_a_job_asks_for_at_first(folder: Path) -> None:
    batch = "batch: {global_size: 100, controller: %s}\n"
    for workers, controller, expected in (
        ("{min: 2, max: 5}", "constant", None),
        ("{min: 2, max: 5}", "noise_scale", None),
        ("{min: 2, max: 5, samples_per_worker: 30}", "noise_scale", 4),
        ("{min: 2, max: 5, samples_per_worker: 10}", "constant", 5),
        ("{min: 2, max: 5, samples_per_worker: 200}", "constant", 2),
        ("{min: 2, max: 5}", "goodput", 2),
        ("{min: 2, max: 5}", "{name: goodput, min_utility: null}", None),
        ("3", "goodput", None),
    ):
        text = f"name: tiny\n{GOOD}resources: {{workers: {workers}}}\n{batch % controller}"
        spec = load(folder, text).spec
        assert first_wish(spec) == expected, text
    assert [within_range(load(folder, RANGE).spec, number) for number in (1, 2, 4, 9)] == [2, 2, 4, 5]


def test_whether_goodput_asks_for_workers_is_not_part_of_the_training(folder: Path) -> None:
    text = f"{RANGE}batch: {{controller: goodput}}\n"
    asks, does_not = (load(folder, text, *more).spec for more in ((), ("batch.controller.min_utility=null",)))
    assert spec_hash(asks) == spec_hash(does_not)


def test_a_script_may_be_elastic(folder: Path) -> None:
    (folder / "train.py").write_text("", encoding="utf-8")
    text = "name: tiny\nscript: {path: train.py}\nresources: {workers: {min: 1, max: 2}}\n"
    assert is_elastic(load(folder, text).spec)


def test_editors_are_told_of_both_forms() -> None:
    schema = job_schema()
    node = schema["$defs"]["Resources"]["properties"]["workers"]
    assert json.dumps(node).count("WorkerRange") == 1
    assert {"minimum": 1, "type": "integer"} in node["oneOf"]
    assert schema["$defs"]["WorkerRange"]["required"] == ["min", "max"]


def test_numbers_are_told_in_stretches() -> None:
    assert numbers_text([1, 3, 4, 5, 9]) == "1, 3 to 5, 9"
