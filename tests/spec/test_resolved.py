"""The resolved spec: the way to YAML and back, and the hash of what defines the training."""

from pathlib import Path

import pytest
from spec.bad_spec import good
from spec.loading import FULL, load

from orchestrator.spec.job import JobSpec, ScriptJobSpec
from orchestrator.spec.load import dump_resolved, load_recipe_job, load_resolved, spec_hash
from orchestrator.spec.problems import SpecError

LIKE_OTHER_TYPES = ["", "yes", "null", "~", "1e-6", ".5e3", "1_000", "2024-01-01", "-_", "<<", "=", "!!python/none"]
LIKE_SYNTAX = [" a ", "- a", "a: b", "#", "'", '"', "|", "x" * 500]
UNUSUAL = ["a\nb", "a\u2028b", "\x85", "\ufeff", "\x7f", "\t", "\u00e9 \U0001f600"]


@pytest.mark.parametrize("text", LIKE_OTHER_TYPES + LIKE_SYNTAX + UNUSUAL, ids=ascii)
def test_strings_survive_the_way_to_yaml_and_back(folder: Path, text: str) -> None:
    spec = load(folder, FULL).spec.model_copy(update={"env": {"A": text}, "storage": text})
    (folder / "resolved.yaml").write_text(dump_resolved(spec), encoding="utf-8")
    assert load_resolved(folder / "resolved.yaml") == spec


@pytest.mark.parametrize("number", [1e-6, 1e-05, 0.1, 1 / 3, 1e22, 5e-324, 1.7976931348623157e308, 1e16, 2.0])
def test_floats_survive_exactly_and_are_floats_to_every_reader(folder: Path, number: float) -> None:
    spec = load(folder, FULL, f"recipe.args.hidden={number!r}").spec
    text = dump_resolved(spec)
    (folder / "resolved.yaml").write_text(text, encoding="utf-8")
    assert load_resolved(folder / "resolved.yaml").recipe.args == {"hidden": number}
    (line,) = [line for line in text.splitlines() if "hidden" in line]
    assert "." in line  # YAML 1.1 takes 1e-06 for a string


def test_resolved_text_is_whole_and_stable(folder: Path) -> None:
    text = dump_resolved(load(folder, FULL).spec)
    (folder / "resolved.yaml").write_text(text, encoding="utf-8")
    assert dump_resolved(load_resolved(folder / "resolved.yaml")) == text
    sections = [line.partition(":")[0] for line in text.splitlines() if not line.startswith((" ", "-"))]
    assert sections == list(JobSpec.model_fields)
    assert "  keep: 2" in text


def test_a_resolved_spec_is_read_strictly_but_without_its_recipe(folder: Path) -> None:
    path = folder / "resolved.yaml"
    text = dump_resolved(load(folder, FULL).spec).replace("recipe.py", "elsewhere.py")
    path.write_text(text, encoding="utf-8")
    assert load_resolved(path).recipe.target == "elsewhere.py:Tiny"
    path.write_text(text.replace("keep:", "kept:"), encoding="utf-8")
    with pytest.raises(SpecError, match=r"checkpoint\.kept = 2: unknown key"):
        load_resolved(path)
    path.write_text(text.replace("name: digits-lamb\n", ""), encoding="utf-8")
    with pytest.raises(SpecError, match="name: missing"):
        load_resolved(path)


@pytest.mark.parametrize(
    "override",
    ["name=other", "resources.workers=1", "checkpoint.every=7", "retries.user_error=1", "queue.timeout_s=3",
     "tracking.experiment=x", "storage=/tmp", "env.A=x", "data.prefetch=3", "train.log_every=2",
     "engine={name: deepspeed, zero_stage: 0}", "exchange.bucket_mib=1", "train.compile=eager",
     "train.activation_checkpointing={every: 2}"],
)  # fmt: skip
def test_hash_leaves_out_what_does_not_change_the_training(folder: Path, override: str) -> None:
    assert spec_hash(load(folder, FULL, override).spec) == spec_hash(load(folder, FULL).spec)


@pytest.mark.parametrize(
    "override",
    ["recipe.args.hidden=65", "train.seed=1", "batch.global_size=1023", "optimizer.lr=0.02", "optimizer=adamw",
     "schedule=constant", "scaling.rule=linear"],
)  # fmt: skip
def test_hash_sees_what_changes_the_training(folder: Path, override: str) -> None:
    assert spec_hash(load(folder, FULL, override).spec) != spec_hash(load(folder, FULL).spec)


def test_a_job_with_a_script_survives_the_way_to_yaml_and_back(folder: Path) -> None:
    spec = load(folder, "script: {path: recipe.py, args: [--lr, 1e-6, -n, 3, '3']}\nresources: {workers: 2}").spec
    assert isinstance(spec, ScriptJobSpec)
    assert spec.script.args == ("--lr", 1e-6, "-n", 3, "3")
    text = dump_resolved(spec)
    assert [line.partition(":")[0] for line in text.splitlines() if not line.startswith((" ", "-"))] == [
        "name", "script", "resources", "retries", "queue", "tracking", "storage", "mirror", "env", "sweep", "trials"
    ]  # fmt: skip
    (folder / "resolved.yaml").write_text(text, encoding="utf-8")
    assert load_resolved(folder / "resolved.yaml") == spec
    with pytest.raises(SpecError, match="script: is not trained by this package"):
        load_recipe_job(folder / "resolved.yaml")


def test_hash_of_a_script_is_its_command_line(folder: Path) -> None:
    text = "script: {path: recipe.py, args: [3]}"
    first = spec_hash(load(folder, text).spec)
    assert spec_hash(load(folder, text, "resources.workers=3", "env.A=x", "retries.user_error=1").spec) == first
    assert spec_hash(load(folder, text, "script.args.0=4").spec) != first


def test_hash_is_the_same_however_the_spec_is_written(folder: Path) -> None:
    first = spec_hash(load(folder, good("optimizer: adamw\nenv: {A: x}")).spec)
    second = spec_hash(load(folder, good("optimizer: {lr: 1.0e-3, eps: 1e-8}")).spec)
    assert first == second
    assert len(bytes.fromhex(first)) == 32
