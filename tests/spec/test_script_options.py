"""What a script is started with, and the trials of a sweep over it."""

from pathlib import Path
from typing import Any

import pytest
from spec.loading import load

from orchestrator.spec.job import Script, ScriptJobSpec, Trials
from orchestrator.spec.load import dump_resolved, load_resolved, spec_hash
from orchestrator.spec.sweep import assignments_of, has_separate_trials, trials_of

SPEC = "name: tiny\nscript: {path: recipe.py, args: [fit, --epochs, 3]}\n"


def scripted(folder: Path, lines: str, *overrides: str) -> ScriptJobSpec:
    spec = load(folder, f"{SPEC}{lines}\n", *overrides).spec
    assert isinstance(spec, ScriptJobSpec)
    return spec


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lr": 0.1}, ["--lr", "0.1"]),
        ({"global-batch": 64, "log_dir": "a b"}, ["--global-batch", "64", "--log_dir", "a b"]),
        ({"amp": True, "resume": False, "seed": None}, ["--amp"]),
        ({"amp": "true"}, ["--amp", "true"]),
        ({"betas": (0.9, 1)}, ["--betas", "0.9", "1"]),
        ({"shift": -0.5, "note": "-v"}, ["--shift=-0.5", "--note=-v"]),
    ],
)
def test_options_follow_the_arguments(options: dict[str, Any], words: list[str]) -> None:
    script = Script(path="train.py", args=("fit", 3), options=options)
    assert script.command_line == ("fit", "3", *words)


def test_an_option_may_be_overridden_and_taken_back(folder: Path) -> None:
    lines = "base: below.yaml"
    below = "script: {options: {lr: 0.1, amp: true}}\n"
    overrides = ("script.options.lr=1e-5", "script.options.amp=null")
    spec = load(folder, f"{SPEC}{lines}\n", *overrides, below=below).spec
    assert isinstance(spec, ScriptJobSpec)
    assert spec.script.command_line == ("fit", "--epochs", "3", "--lr", "1e-05")
    (folder / "resolved.yaml").write_text(dump_resolved(spec), encoding="utf-8")
    assert load_resolved(folder / "resolved.yaml") == spec


def test_trials_of_a_script_are_scripts_with_other_words(folder: Path) -> None:
    spec = scripted(
        folder, "sweep: {script.options.lr: [0.1, 0.2], script.args.2: [3, 5]}\ntrials: {concurrent: 2}\nenv: {A: x}"
    )
    assert has_separate_trials(spec)
    trials = trials_of(spec)
    assert [trial.script.command_line for trial in trials] == [
        ("fit", "--epochs", "3", "--lr", "0.1"),
        ("fit", "--epochs", "5", "--lr", "0.1"),
        ("fit", "--epochs", "3", "--lr", "0.2"),
        ("fit", "--epochs", "5", "--lr", "0.2"),
    ]
    assert assignments_of(spec)[1] == {"script.options.lr": 0.1, "script.args.2": 5}
    assert trials[2].name == "tiny-2"
    assert all(trial.trials == Trials() and not trial.sweep and trial.env == {"A": "x"} for trial in trials)
    alone = scripted(folder, "env: {A: x}", "script.options.lr=0.2")
    assert trials[2] == alone.model_copy(update={"name": "tiny-2"})
    assert spec_hash(trials[2]) == spec_hash(alone)


@pytest.mark.parametrize(
    ("sweep", "values"),
    [
        ("{script.path: [recipe.py, sub/other.py]}", ["recipe.py", "sub/other.py"]),
        ("{script.args: [[], [-v]]}", [(), ("-v",)]),
        ("{env.NCCL_ALGO: [Ring, Tree]}", ["Ring", "Tree"]),
        ("{resources.workers: [1, 2]}", [1, 2]),
        ("{random: {trials: 2, script.options.lr: {uniform: [0.1, 0.2]}}}", None),
    ],
)
def test_trials_of_a_script_may_differ_in_all_that_is_not_the_jobs(
    sweep: str, values: list[object] | None, folder: Path
) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "other.py").write_text("", encoding="utf-8")
    spec = scripted(folder, f"sweep: {sweep}")
    trials = trials_of(spec)
    found = [
        (trial.script.path, trial.script.args, trial.env.get("NCCL_ALGO"), trial.resources.workers) for trial in trials
    ]
    assert len(trials) == 2
    assert values is None or [next(value for value in row if value in values) for row in found] == values
    (folder / "resolved.yaml").write_text(dump_resolved(spec), encoding="utf-8")
    assert load_resolved(folder / "resolved.yaml") == spec
