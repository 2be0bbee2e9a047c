"""Reading good specs: precedence, bases, overrides and YAML 1.2."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from spec.bad_spec import GOOD, RECIPE, good
from spec.loading import FULL, load

from orchestrator.spec.job import JobSpec, ScriptJobSpec
from orchestrator.spec.load import load_spec
from orchestrator.spec.problems import SpecError


def test_five_lines_are_enough(folder: Path) -> None:
    loaded = load(folder, "recipe:\n  target: recipe.py:Tiny\ntrain:\n  steps: 300\n")
    assert loaded.spec.train.steps == 300
    assert loaded.spec == JobSpec.model_validate(
        {"name": "my-jobs-2", "recipe": {"target": "recipe.py:Tiny"}, "train": {"steps": 300}}
    )


def test_the_whole_contract_loads(folder: Path) -> None:
    spec = load(folder, FULL).spec
    assert spec.optimizer.name == "lamb"
    assert spec.optimizer.lr == 0.01
    assert spec.batch.micro_size == 128
    assert spec.schedule.warmup is not None
    assert spec.schedule.warmup.epochs == 2.0
    assert spec.resources.workers == 2


def test_what_a_loaded_spec_knows(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (folder / "job.yaml").write_text(FULL, encoding="utf-8")
    loaded = load_spec("job.yaml", ["train.seed=3"])
    assert loaded.file == folder / "job.yaml"
    assert loaded.folder == folder
    assert loaded.submitted_text == FULL


def test_problems_name_the_file_as_the_user_did(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (folder / "job.yaml").write_text(good("optimizer: {lrr: 0.1}"), encoding="utf-8")
    with pytest.raises(SpecError, match=r"^job\.yaml:3: optimizer\.lrr = 0\.1: unknown key"):
        load_spec("job.yaml")


def test_a_folder_without_letters_gives_no_name(tmp_path: Path) -> None:
    folder = tmp_path / "__"
    folder.mkdir()
    (folder / "recipe.py").write_text(RECIPE, encoding="utf-8")
    with pytest.raises(SpecError, match=r"job\.yaml: name: missing, and the folder's name \"__\" does not give one"):
        load(folder, GOOD)


def test_precedence(folder: Path) -> None:
    base = "train: {seed: 1, eval_every: 1, log_every: 1}\n"
    text = "base: base.yaml\nrecipe: {target: recipe.py:Tiny}\ntrain: {steps: 8, seed: 2, eval_every: 2}\n"
    train = load(folder, text, "train.seed=3", base=base).spec.train
    assert (train.seed, train.eval_every, train.log_every, train.precision) == (3, 2, 1, "fp32")


def test_bases_chain_and_are_relative_to_the_file_that_names_them(folder: Path) -> None:
    bases = folder.parent / "bases"
    bases.mkdir()
    (bases / "cpu.yaml").write_text("base: deeper/all.yaml\nresources: {cpus_per_worker: 2}\n", encoding="utf-8")
    (bases / "deeper").mkdir()
    (bases / "deeper" / "all.yaml").write_text("resources: {workers: 3, cpus_per_worker: 1}\n", encoding="utf-8")
    resources = load(folder, good("base: ../bases/cpu.yaml\nresources: {placement: spread}")).spec.resources
    assert (resources.workers, resources.cpus_per_worker, resources.placement) == (3, 2.0, "spread")


def test_a_base_of_null_is_no_base(folder: Path) -> None:
    assert load(folder, good("base: null")).spec == load(folder, GOOD).spec


def test_lists_replace_and_mappings_merge(folder: Path) -> None:
    base = "optimizer: {betas: [0.5, 0.6], eps: 1.0e-3}\ntracking: {tags: {a: x, b: x}}\n"
    spec = load(
        folder, good("base: base.yaml\noptimizer: {betas: [0.7, 0.8]}\ntracking: {tags: {b: y}}"), base=base
    ).spec
    assert spec.optimizer.betas == (0.7, 0.8)
    assert spec.optimizer.eps == 1e-3
    assert spec.tracking.tags == {"a": "x", "b": "y"}


@pytest.mark.parametrize("written", ["{name: lamb}", "lamb"])
def test_another_method_replaces_the_section_of_the_base(folder: Path, written: str) -> None:
    spec = load(
        folder, good(f"base: base.yaml\noptimizer: {written}"), base="optimizer: {name: sgd, momentum: 0.9}\n"
    ).spec
    assert spec.optimizer.name == "lamb"


@pytest.mark.parametrize("written", ["{name: sgd, lr: 0.5}", "{lr: 0.5}"])
def test_the_same_method_merges_with_the_base(folder: Path, written: str) -> None:
    spec = load(
        folder, good(f"base: base.yaml\noptimizer: {written}"), base="optimizer: {name: sgd, momentum: 0.9}\n"
    ).spec
    assert spec.optimizer.name == "sgd"
    assert (spec.optimizer.lr, spec.optimizer.momentum) == (0.5, 0.9)


def test_the_name_of_a_base_does_not_keep_the_rest_of_it_out(folder: Path) -> None:
    spec = load(folder, good("base: base.yaml\nname: mine"), base="name: base\ntrain: {seed: 7}\n").spec
    assert (spec.name, spec.train.seed) == ("mine", 7)


def test_null_takes_an_inherited_length_back(folder: Path) -> None:
    assert load(folder, FULL, "train.steps=null", "train.epochs=3").spec.train.epochs == 3


def test_a_problem_that_two_files_make_names_the_nearer_line(folder: Path) -> None:
    with pytest.raises(SpecError, match=r"job\.yaml:2: train: needs exactly one of"):
        load(
            folder,
            f"base: base.yaml\n{GOOD[GOOD.index('train') :]}",
            base="recipe: {target: recipe.py:Tiny}\ntrain: {epochs: 1}\n",
        )


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("optimizer.betas.0=0.5", "optimizer.betas", (0.5, 0.8)),
        ("optimizer={name: sgd, momentum: 0.5}", "optimizer.momentum", 0.5),
        ("optimizer=sgd", "optimizer.name", "sgd"),
        ("optimizer.eps=1e-3", "optimizer.eps", 1e-3),
        ("env.A=yes", "env", {"A": "yes"}),
        ("tracking.uri=http://host:5000/?a=b", "tracking.uri", "http://host:5000/?a=b"),
        ("storage=null", "storage", None),
        ("recipe.args.hidden=9", "recipe.args", {"hidden": 9}),
        ("schedule.warmup={steps: 2}", "schedule.warmup.steps", 2),
    ],
)
def test_overrides(folder: Path, override: str, path: str, value: object) -> None:
    found: object = load(folder, good("optimizer: {betas: [0.7, 0.8]}\nstorage: /tmp/x"), override).spec
    for key in path.split("."):
        found = getattr(found, key)
    assert found == value


def test_later_overrides_build_on_earlier_ones(folder: Path) -> None:
    spec = load(folder, GOOD, "optimizer=sgd", "optimizer.momentum=0.5", "optimizer.momentum=0.9").spec
    assert spec.optimizer.name == "sgd"
    assert spec.optimizer.momentum == 0.9


def test_arguments_without_a_name_are_those_of_the_default_method(folder: Path) -> None:
    spec = load(folder, GOOD, "optimizer.amsgrad=true", "schedule.warmup.steps=3").spec
    assert (spec.optimizer.name, spec.optimizer.amsgrad, spec.schedule.name) == ("adamw", True, "constant")


def test_yaml_1_2_values(folder: Path) -> None:
    values = load(
        folder, good("")[: -len("\n")] + "env: {A: yes, B: on, C: 2024-01-01, D: '1'}\n", "recipe.args={hidden: 1e-6}"
    ).spec
    assert values.recipe.args == {"hidden": 1e-6}
    assert values.env == {"A": "yes", "B": "on", "C": "2024-01-01", "D": "1"}


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1e-6", 1e-6),
        ("1E5", 1e5),
        ("010", 10),
        ("0x1F", 31),
        ("0o17", 15),
        ("60_000", 60_000),
        ("-3", -3),
        ("TRUE", True),
        ("~", None),
        ("", None),
        ("no", "no"),
        ("12:30:45", "12:30:45"),
        ("2024-01-01", "2024-01-01"),
        ("'1'", "1"),
        ("!!str 1", "1"),
        ("!!float 1", 1.0),
        ("[1, [2]]", [1, [2]]),
        ('"a\\tb"', "a\tb"),
    ],
)
def test_plain_values(folder: Path, written: str, value: object) -> None:
    found = load(
        folder, f"{GOOD[: GOOD.index('}')]}, args: {{hidden: {written} }}}}\ntrain: {{steps: 1}}\n"
    ).spec.recipe.args
    assert found == {"hidden": value}
    assert type(found["hidden"]) is type(value)


def test_a_byte_order_mark_and_reused_anchors_are_legal(folder: Path) -> None:
    loaded = load(folder, f"\ufeff{GOOD}env: {{A: &a x, B: &a y, C: *a}}\n")
    assert loaded.spec.env == {"A": "x", "B": "y", "C": "y"}
    assert loaded.submitted_text.startswith("recipe")


def test_a_method_by_its_name_alone(folder: Path) -> None:
    spec = load(folder, good("optimizer: lamb\nengine: ddp")).spec
    values = {"name": "my-jobs-2", "recipe": {"target": "recipe.py:Tiny"}, "train": {"steps": 8}}
    assert spec == JobSpec.model_validate({**values, "optimizer": "lamb", "engine": "ddp"})


def test_an_alias_is_a_copy(folder: Path) -> None:
    text = "recipe: {target: recipe.py:Tiny, args: {hidden: &x [1, 2], depth: *x}}\ntrain: {steps: 1}\n"
    assert load(folder, text).spec.recipe.args == {"hidden": [1, 2], "depth": [1, 2]}
    assert load(folder, text, "recipe.args.depth.0=5").spec.recipe.args == {"hidden": [1, 2], "depth": [5, 2]}


def test_spec_imports_nothing_heavy() -> None:
    modules = sorted(path.stem for path in Path(__file__).parents[2].glob("orchestrator/spec/*.py"))
    imports = ", ".join(f"orchestrator.spec.{module}" for module in modules)
    script = f"import sys, json, {imports}; print(json.dumps([*sys.modules]))"
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    loaded = set(json.loads(output))
    assert not {"numpy", "torch", "ray", "mlflow", "datasets", "jsonschema", "typer", "rich"} & loaded
    assert not [
        name for name in loaded if name.startswith("orchestrator.") and not name.startswith("orchestrator.spec")
    ]


def test_a_script_may_take_its_surroundings_from_any_base(folder: Path) -> None:
    base = "resources: {workers: 3}\nretries: {user_error: 2}\n"
    spec = load(folder, "base: cpu.yaml\nscript: {path: recipe.py}\n", cpu=base).spec
    assert isinstance(spec, ScriptJobSpec)
    assert (spec.resources.workers, spec.retries.user_error) == (3, 2)


def test_what_a_base_says_of_a_recipe_is_refused_there_and_null_takes_it_back(folder: Path) -> None:
    base = "resources: {workers: 3}\ntrain: {steps: 8}\n"
    with pytest.raises(SpecError, match=r"cpu\.yaml:2: train: belongs to jobs with a recipe"):
        load(folder, "base: cpu.yaml\nscript: {path: recipe.py}\n", cpu=base)
    assert isinstance(
        load(folder, "base: cpu.yaml\nscript: {path: recipe.py}\ntrain: null", cpu=base).spec, ScriptJobSpec
    )
    script = "script: {path: train.py}\n"
    assert isinstance(load(folder, f"base: cpu.yaml\n{GOOD}script: null\n", cpu=script).spec, JobSpec)


def test_a_misspelt_script_is_still_one(folder: Path) -> None:
    with pytest.raises(SpecError) as caught:
        load(folder, "scripf: {path: recipe.py}\n")
    assert "Did you mean 'script'?" in str(caught.value)
    assert [problem.path for problem in caught.value.problems if problem.path in ("recipe", "train")] == []
