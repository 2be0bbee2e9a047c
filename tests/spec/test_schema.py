"""The JSON schema that editors use agrees with what loads."""

from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ruamel.yaml import YAML
from spec.bad_fields import KEYS, TYPES, VALUES
from spec.bad_scripts import SCRIPT_FIELDS
from spec.bad_spec import GOOD, BadSpec, good

from orchestrator.spec.describe import field_paths
from orchestrator.spec.schema import SCHEMA_ID, job_schema

VALIDATOR = jsonschema.Draft202012Validator(job_schema())
FULL = (Path(__file__).parent / "full.yaml").read_text(encoding="utf-8")
# A schema takes 1e3 for an integer, and the checks between fields are beyond it.
BEYOND_A_SCHEMA = {
    "float for an integer",
    "steps and epochs",
    "no length",
    "two warmups",
    "rule without reference",
}


def parsed(text: str | bytes) -> Any:
    return YAML(typ="safe", pure=True).load(text)


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(job_schema())
    assert job_schema()["$id"] == SCHEMA_ID


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        FULL,
        good("engine: ddp\noptimizer: lamb\ndata: {source: recipe}\nbatch: {controller: constant}"),
        good("optimizer: {lr: 0.1}\nschedule: {warmup: {steps: 3}}"),
        good("then: [{train: {steps: 3}, schedule: cosine}, {train: {epochs: 1}, schedule: {name: polynomial}}]"),
        good("env: {A: null, B: x}\nbase: null"),
        good("exchange: coded\nsweep: {optimizer.lr: [0.1, 0.2]}"),
        good("exchange: coded\nsweep: {zip: {optimizer: [sgd, {name: lamb}], train.seed: [1, 2]}}"),
        good("sweep: {random: {trials: 3, optimizer.lr: {uniform: [0.1, 0.2]}}}\ntrials: {concurrent: 2}"),
        good("sweep: {train.seed: [1]}\ntrials: {early_stopping: {rule: asha, first: {steps: 2}}}"),
        "script: {path: train.py, args: [--epochs, 3, --lr, 1e-3]}\nresources: {workers: 2}\nenv: {A: x}\n",
        "script: {path: train.py, options: {lr: 0.1, v: true, b: [1, 2]}}\nsweep: {script.options.lr: [1]}\n",
        "base: ../bases/cpu.yaml\n",
        "base: ../bases/cpu.yaml\nscript: {args: [-v]}\n",
        "base: ../bases/cpu.yaml\ntrain: {seed: 3}\nrecipe: {args: {hidden: 3}}\ndata: {source: {streaming: true}}\n",
    ],
)
def test_good_specs_validate(text: str) -> None:
    assert [error.message for error in VALIDATOR.iter_errors(parsed(text))] == []


@pytest.mark.parametrize("bad", [*TYPES, *VALUES, *KEYS, *SCRIPT_FIELDS], ids=lambda bad: bad.id)
def test_bad_specs_do_not(bad: BadSpec) -> None:
    assert VALIDATOR.is_valid(parsed(bad.text)) == (bad.id in BEYOND_A_SCHEMA)


def test_a_base_excuses_what_is_missing_but_not_what_is_wrong() -> None:
    assert not VALIDATOR.is_valid(parsed("base: a.yaml\ntrain: {stpes: 3}\n"))
    assert not VALIDATOR.is_valid(parsed("base: a.yaml\noptimizer: lmab\n"))


def test_every_field_has_a_description() -> None:
    root = job_schema()
    nodes = {"": root, **root["$defs"]}
    missing = [
        f"{name}.{key}"
        for name, node in nodes.items()
        for key, field in node["properties"].items()
        if key != "name" and "description" not in field and "$ref" not in field
    ]
    assert missing == []
    assert all("description" in node for node in nodes.values())


def test_field_paths_reach_everything() -> None:
    assert {"name", "schedule.warmup.steps", "batch.controller.name", "data.source.data_files"} <= set(field_paths())
