"""Which trials a sweep has, and that they stay the same wherever they are asked for."""

from pathlib import Path
from typing import Any

import pytest
from spec.bad_spec import GOOD
from spec.loading import load

from orchestrator.spec.job import JobSpec, Trials
from orchestrator.spec.load import dump_resolved, load_recipe_job, spec_hash
from orchestrator.spec.methods.optimizers import AdamW
from orchestrator.spec.sweep import assignments_of, has_separate_trials, sweep_of, trials_of

CODED = f"name: tiny\n{GOOD}resources: {{workers: 2}}\nexchange: coded\n"


def loaded(folder: Path, sweep: str, *overrides: str) -> JobSpec:
    spec = load(folder, f"{CODED}sweep: {sweep}\n", *overrides).spec
    assert isinstance(spec, JobSpec)
    return spec


def test_without_a_sweep_a_job_is_its_only_trial(folder: Path) -> None:
    spec = loaded(folder, "{}")
    assert trials_of(spec) == (spec,)
    assert trials_of(spec)[0] is spec
    assert (assignments_of(spec), sweep_of(spec)) == (({},), ())


@pytest.mark.parametrize("around", ["{}", "{{grid: {}}}"])
def test_a_grid_has_every_combination_and_the_last_path_varies_fastest(around: str, folder: Path) -> None:
    spec = loaded(folder, around.format("{optimizer.lr: [0.1, 0.2], train.seed: [0, 1, 5]}"))
    pairs = [(trial.optimizer.lr, trial.train.seed) for trial in trials_of(spec)]
    assert pairs == [(0.1, 0), (0.1, 1), (0.1, 5), (0.2, 0), (0.2, 1), (0.2, 5)]
    assert sweep_of(spec) == assignments_of(spec)
    assert assignments_of(spec)[4] == {"optimizer.lr": 0.2, "train.seed": 1}


def test_a_zip_puts_lists_side_by_side(folder: Path) -> None:
    spec = loaded(folder, "{zip: {optimizer.lr: [0.1, 0.2], train.seed: [5, 6]}}")
    assert [(trial.optimizer.lr, trial.train.seed) for trial in trials_of(spec)] == [(0.1, 5), (0.2, 6)]


def test_a_trial_is_the_job_with_these_values_and_a_name_of_its_own(folder: Path) -> None:
    spec = loaded(folder, "{optimizer.lr: [0.1, 0.2]}")
    alone = loaded(folder, "{}", "optimizer.lr=0.2")
    assert trials_of(spec)[1] == alone.model_copy(update={"name": "tiny-1"})
    assert spec_hash(trials_of(spec)[1]) == spec_hash(alone)


@pytest.mark.parametrize(
    ("name", "first"), [("a" * 63, f"{'a' * 61}-0"), (f"{'a' * 60}-bc", f"{'a' * 60}-0"), ("tiny", "tiny-0")]
)
def test_names_of_trials_are_legal(name: str, first: str, folder: Path) -> None:
    spec = loaded(folder, "{train.seed: [0, 1]}", f"name={name}")
    assert trials_of(spec)[0].name == first


@pytest.mark.parametrize(
    ("sweep", "override"),
    [
        ("{optimizer: [adamw, {name: lamb, lr: 0.5}]}", "optimizer={name: lamb, lr: 0.5}"),
        ("{optimizer: [adamw, {lr: 0.5}]}", "optimizer={lr: 0.5}"),
        ("{schedule: [constant, cosine]}", "schedule=cosine"),
        ("{recipe.args: [{}, {hidden: 3}]}", "recipe.args={hidden: 3}"),
        ("{optimizer.betas: [[0.9, 0.99], [0.8, 0.9]]}", "optimizer.betas=[0.8, 0.9]"),
        ("{train.clip_grad_norm: [null, 1]}", "train.clip_grad_norm=1"),
        ("{train: [{steps: 2}, {epochs: 1}]}", "train={epochs: 1}"),
        ("{schedule.warmup.steps: [1, 3]}", "schedule.warmup.steps=3"),
        ("{then: [[], [{train: {steps: 3}}]]}", "then=[{train: {steps: 3}}]"),
        ("{data.source: [recipe, {name: hugging_face, path: mnist}]}", "data.source={name: hugging_face, path: mnist}"),
    ],
)
def test_values_are_set_as_overrides_would_set_them(sweep: str, override: str, folder: Path) -> None:
    """Before and after all defaults are filled in, which is where the ranks find them."""
    spec, alone = loaded(folder, sweep), loaded(folder, "{}", override)
    assert trials_of(spec)[1].model_copy(update={"name": "tiny"}) == alone
    resolved = folder / "resolved.yaml"
    resolved.write_text(dump_resolved(spec), encoding="utf-8")
    assert load_recipe_job(resolved) == spec
    assert trials_of(load_recipe_job(resolved)) == trials_of(spec)


def test_an_item_of_a_list_may_be_swept(folder: Path) -> None:
    optimizers = [trial.optimizer for trial in trials_of(loaded(folder, "{optimizer.betas.0: [0.5, 0.6]}"))]
    betas = [optimizer.betas for optimizer in optimizers if isinstance(optimizer, AdamW)]
    assert betas == [(0.5, 0.999), (0.6, 0.999)]


def test_a_method_and_then_its_argument(folder: Path) -> None:
    trials = trials_of(loaded(folder, "{optimizer: [sgd, lamb], optimizer.lr: [0.1, 0.2]}"))
    found = [(trial.optimizer.name, trial.optimizer.lr) for trial in trials]
    assert found == [("sgd", 0.1), ("sgd", 0.2), ("lamb", 0.1), ("lamb", 0.2)]


def test_the_sweep_stays_as_it_is_written(folder: Path) -> None:
    spec = loaded(folder, "{optimizer: [{lr: 0.1}, {name: sgd}]}")
    assert [trial.optimizer.name for trial in trials_of(spec)] == ["adamw", "sgd"]
    assert spec.sweep == {"optimizer": [{"lr": 0.1}, {"name": "sgd"}]}


def test_a_sweep_may_come_from_the_command_line(folder: Path) -> None:
    spec = loaded(folder, "{}", "sweep={train.seed: [4, 5]}")
    assert [trial.train.seed for trial in trials_of(spec)] == [4, 5]


def test_the_hash_of_a_job_is_of_its_sweep_too(folder: Path) -> None:
    hashes = {spec_hash(loaded(folder, sweep)) for sweep in ("{}", "{train.seed: [0]}", "{train.seed: [0, 1]}")}
    assert len(hashes) == 3


def test_enough_models_make_a_sequential_code_legal(folder: Path) -> None:
    scheme = ("exchange={name: coded, scheme: m_sgc, window: 3}", "resources.workers=4")
    assert len(trials_of(loaded(folder, "{train.seed: [0, 1, 2]}", *scheme))) == 3


@pytest.mark.parametrize(
    ("sweep", "field", "values"),
    [
        ("{resources.workers: [1, 2]}", "resources.workers", [1, 2]),
        ("{engine: [ddp, fsdp2]}", "engine.name", ["ddp", "fsdp2"]),
        ("{modulators: [[], [{name: sam, m: 4}]]}", "modulators.0.name", [None, "sam"]),
        ("{exchange: [all_reduce, {name: delayed, steps: 1}]}", "exchange.name", ["all_reduce", "delayed"]),
        ("{env.NCCL_ALGO: [Ring, Tree]}", "env.NCCL_ALGO", ["Ring", "Tree"]),
    ],
)
def test_trials_with_workers_of_their_own_may_differ_in_more(
    sweep: str, field: str, values: list[object], folder: Path
) -> None:
    spec = load(folder, f"name: tiny\n{GOOD}sweep: {sweep}\ntrials: {{concurrent: 2}}\n").spec
    assert has_separate_trials(spec)
    assert isinstance(spec, JobSpec)
    assert [at(trial.model_dump(mode="json"), field) for trial in trials_of(spec)] == values
    assert all(trial.trials == Trials() and not trial.sweep for trial in trials_of(spec))


def at(value: Any, path: str) -> Any:
    """The value at a dotted path; None where there is none."""
    for part in path.split("."):
        if isinstance(value, list):
            value = value[int(part)] if int(part) < len(value) else None
        else:
            value = None if value is None else value.get(part)
    return value


def test_only_coded_trials_share_their_workers(folder: Path) -> None:
    assert not has_separate_trials(loaded(folder, "{train.seed: [0, 1]}"))
    assert not has_separate_trials(loaded(folder, "{}", "exchange=all_reduce"))
    assert has_separate_trials(loaded(folder, "{train.seed: [0, 1]}", "exchange=asynchronous"))
