"""What the checks accept, and the arithmetic of what they refuse; tests/spec/bad_specs.py has the refusals."""

from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from spec.bad_spec import METHODS, RECIPE, class_with

from orchestrator.spec.check import CHECKS, check, missing_capabilities
from orchestrator.spec.describe import field_paths
from orchestrator.spec.job import JobSpec
from orchestrator.spec.methods.engines import Ddp, Fsdp2
from orchestrator.spec.section import Method


def problems(folder: Path, **sections: Any) -> list[str]:
    """Every problem of a spec that is good but for these sections."""
    recipe = folder / "recipe.py"
    if not recipe.exists():
        recipe.write_text(RECIPE, encoding="utf-8")
    values = {"name": "tiny", "recipe": {"target": "recipe.py:Tiny"}, "train": {"steps": 8}}
    return [str(problem) for problem in check(JobSpec.model_validate({**values, **sections}), folder)]


def of_recipe(folder: Path, source: str, **recipe: Any) -> list[str]:
    (folder / "recipe.py").write_text(source, encoding="utf-8")
    return problems(folder, recipe={"target": "recipe.py:Tiny", **recipe})


def test_a_good_spec_has_no_problem(tmp_path: Path) -> None:
    assert problems(tmp_path) == []


def test_checks_name_existing_fields() -> None:
    assert {path for _, reads in CHECKS for path in reads} <= set(field_paths())


ALL = "\n".join(f"    def {method}: ..." for method in METHODS) + "\n"
DATACLASS = f"""
@dataclasses.dataclass(frozen=True)
class Tiny:
    hidden: int
    depth: int = field(default=1)
    kind: ClassVar[str] = 'a'
    _: KW_ONLY
    cache: dict = field(init=False)
    tags: list = field(default_factory=list)
{ALL}"""
DATACLASS_BASE = f"""
@dataclass
class Base:
    hidden: int
@dataclass
class Tiny(Base):
    depth: int = 1
{ALL}"""
OWN_INIT = f"""
@dataclass
class Tiny:
    hidden: int
    def __init__(self, width): ...
{ALL}"""
VISIBLE_BASE = f"""
class Base:
    def __init__(self, hidden, *, width): ...
{ALL}
class Tiny(Base): ...
"""
CONDITIONAL = """
try:
    from fast import Tiny
except ImportError:
    class Tiny:
        build_model = build_datasets = loss = staticmethod(f)
"""
PROTOCOL = f"""
class Recipe(Protocol): ...
class Tiny(Recipe, Generic[T]):
{ALL}"""
ACCEPTED: dict[str, tuple[str, dict[str, Any]]] = {
    "keywords": (f"class Tiny:\n    def __init__(self, *args, **more): ...\n{ALL}", {"anything": 1}),
    "imported base": (f"from lib import Base\nclass Tiny(Base):\n{ALL}", {"anything": 1}),
    "imported base has the methods": ("import lib\nclass Tiny(lib.Base): ...\n", {"anything": 1}),
    "base of the same name": ("import lib\nclass Tiny(lib.Tiny): ...\n", {}),
    "base imported under the same name": ("from lib import Tiny\nclass Tiny(Tiny): ...\n", {}),
    "builtin base": ("class Tiny(dict): ...\n", {"anything": 1}),
    "visible base": (VISIBLE_BASE, {"hidden": 1, "width": 2}),
    "imported class": ("from lib import Tiny\n", {"anything": 1}),
    "star import": ("from lib import *\n", {"anything": 1}),
    "assigned class": ("Tiny = make()\n", {"anything": 1}),
    "conditional class": (CONDITIONAL, {}),
    "assigned methods": ("class Tiny:\n    build_model = build_datasets = f\n    loss: object = g\n", {}),
    "methods on demand": ("class Tiny:\n    def __getattr__(self, name): ...\n", {}),
    "metaclass": (f"class Tiny(metaclass=Meta):\n{ALL}", {"anything": 1}),
    "unknown decorator": (f"@attrs.define\nclass Tiny:\n    x: int\n{ALL}", {"anything": 1}),
    "own __new__": (f"class Tiny:\n    def __new__(cls, hidden): ...\n{ALL}", {"hidden": 1}),
    "dataclass": (DATACLASS, {"hidden": 1, "tags": []}),
    "dataclass base": (DATACLASS_BASE, {"hidden": 1, "depth": 2}),
    "dataclass with its own init": (OWN_INIT, {"width": 1}),
    "protocols and generics": (PROTOCOL, {}),
    "latin-1 source": (f"# coding: latin-1\nclass Tiny:\n{ALL}", {}),
    "invalid escape": (f"class Tiny:\n    x = '\\d'\n{ALL}", {}),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_recipes_that_may_be_right_are_accepted(name: str, tmp_path: Path) -> None:
    source, args = ACCEPTED[name]
    assert of_recipe(tmp_path, source, args=args) == []


def test_arguments_of_a_visible_base_are_checked(tmp_path: Path) -> None:
    assert of_recipe(tmp_path, VISIBLE_BASE, args={"depth": 1}) == [
        "recipe.args.depth = 1: unknown argument. Legal: hidden, width",
        "recipe.args.hidden: missing. Legal: the class needs hidden, width",
        "recipe.args.width: missing. Legal: the class needs hidden, width",
    ]


def test_arguments_of_a_dataclass_are_checked(tmp_path: Path) -> None:
    assert of_recipe(tmp_path, DATACLASS, args={"cache": 1, "kind": "b", "_": 1}) == [
        "recipe.args.cache = 1: unknown argument. Legal: hidden, depth, tags",
        'recipe.args.kind = "b": unknown argument. Legal: hidden, depth, tags',
        "recipe.args._ = 1: unknown argument. Legal: hidden, depth, tags",
        "recipe.args.hidden: missing. Legal: the class needs hidden",
    ]


def test_a_class_is_not_run(tmp_path: Path) -> None:
    assert of_recipe(tmp_path, f"raise SystemExit\nclass Tiny:\n{ALL}") == []


def test_build_datasets_is_not_needed_beside_a_data_set(tmp_path: Path) -> None:
    source = class_with(METHODS[0], METHODS[2])
    assert len(of_recipe(tmp_path, source)) == 1
    data = {"source": {"name": "hugging_face", "path": "owner/name"}}
    assert problems(tmp_path, data=data) == []


def test_a_module_of_the_folder_is_found_without_importing_it(tmp_path: Path) -> None:
    package = tmp_path / "zoo" / "inner"  # without __init__.py: a namespace package
    package.mkdir(parents=True)
    (package / "net.py").write_text(f"raise SystemExit\n{class_with(*METHODS[:2])}", encoding="utf-8")
    assert problems(tmp_path, recipe={"target": "zoo.inner.net:Tiny"}) == [
        'recipe.target = "zoo.inner.net:Tiny": class Tiny has no loss(model, batch). '
        "Legal: a class with build_model(), build_datasets(), loss(model, batch)"
    ]
    (line,) = problems(tmp_path, recipe={"target": "zoo.inner.nets:Tiny"})
    assert "no module zoo.inner.nets in the spec's folder or on Python's path" in line


def test_an_installed_module_is_found(tmp_path: Path) -> None:
    """`orchestrator` itself may be installed through a finder of its own, as editable projects are."""
    (line,) = problems(tmp_path, recipe={"target": "orchestrator.spec.job:JobSpecs"})
    assert "Did you mean 'orchestrator.spec.job:JobSpec'?" in line
    assert problems(tmp_path, recipe={"target": "sys:Anything"}) == []  # no source to look into


def test_a_recipe_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "my-recipe.py").write_text(RECIPE, encoding="utf-8")
    assert problems(tmp_path, recipe={"target": "sub/my-recipe.py:Tiny"}) == []


@pytest.mark.parametrize("line", ["couples_samples = False", "couples_samples: bool", "samples = True", "pass"])
def test_a_class_that_does_not_say_that_it_couples_samples_may_be_cut(line: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.py").write_text(RECIPE.replace("class Tiny:", f"class Tiny:\n    {line}"), encoding="utf-8")
    assert problems(tmp_path, batch={"micro_size": 4}) == []


def test_coupled_samples_may_be_trained_on_by_ranks_of_a_group(tmp_path: Path) -> None:
    source = RECIPE.replace("class Tiny:", "class Tiny:\n    couples_samples = True")
    (tmp_path / "recipe.py").write_text(source, encoding="utf-8")
    for exchange in ({"name": "all_reduce"}, {"name": "delayed", "steps": 2}):
        assert problems(tmp_path, exchange=exchange, resources={"workers": 2}) == []


@pytest.mark.parametrize(("size", "workers"), [(8, 8), (9, 8), (1, 1), (1023, 4)])
def test_uneven_slices_are_legal(size: int, workers: int, tmp_path: Path) -> None:
    assert problems(tmp_path, batch={"global_size": size}, resources={"workers": workers}) == []


def test_the_batch_arithmetic_is_shown(tmp_path: Path) -> None:
    assert problems(tmp_path, batch={"global_size": 5}, resources={"workers": 6}) == [
        "batch.global_size = 5: 5 / 6 workers = 0.833 samples per worker; each needs at least 1. "
        "Legal: 6 or more (evenly divided: 6, 12, 18, ...), or resources.workers of at most 5"
    ]


@pytest.mark.parametrize("warmup", [{"steps": 8}, {"epochs": 100}, {"samples": 10**6}, {"fraction": 1.0}])
def test_warmups_that_may_fit(warmup: dict[str, Any], tmp_path: Path) -> None:
    assert problems(tmp_path, schedule={"name": "cosine", "warmup": warmup}) == []


@pytest.mark.parametrize("unit", ["steps", "epochs", "samples"])
def test_warmups_that_cannot_fit(unit: str, tmp_path: Path) -> None:
    (line,) = problems(tmp_path, train={unit: 8}, schedule={"name": "cosine", "warmup": {unit: 9}})
    assert line.startswith(f"schedule.warmup.{unit} = 9")
    assert line.endswith(f"the warmup is longer than the training of 8 {unit}. Legal: at most 8")


def test_nesterov_with_momentum(tmp_path: Path) -> None:
    assert problems(tmp_path, optimizer={"name": "sgd", "momentum": 0.9, "nesterov": True}) == []


def test_fp16_on_cpus_is_legal(tmp_path: Path) -> None:
    assert problems(tmp_path, train={"steps": 8, "precision": "fp16"}) == []


class Demanding(Method):
    """Stands for a method that the engine at hand cannot carry."""

    requires: ClassVar[frozenset[str]] = frozenset({"whole_tensors", "uneven_batch", "local_gradients"})
    name: Literal["demanding"] = "demanding"


def test_missing_capabilities_are_named() -> None:
    found = list(missing_capabilities("optimizer", Demanding(), Fsdp2(name="fsdp2")))
    assert [str(problem) for problem in found] == [
        'optimizer.name = "demanding": requires local_gradients, whole_tensors of the engine, '
        "which fsdp2 does not provide. Legal: methods that need only changing_batch, gradient_groups, native_step, "
        "rewinds, rows, step_loss, uneven_batch, whole_step"
    ]
    assert list(missing_capabilities("optimizer", Demanding(), Ddp(name="ddp"))) == []


def test_what_accelerate_provides_is_read_from_its_file(tmp_path: Path) -> None:
    sections = {"optimizer": {"name": "came"}, "engine": {"name": "accelerate", "config": "accelerate.yaml"}}
    (tmp_path / "accelerate.yaml").write_text("distributed_type: FSDP\n")
    assert problems(tmp_path, **sections) == []
    (tmp_path / "accelerate.yaml").write_text("distributed_type: DEEPSPEED\n")
    (problem,) = problems(tmp_path, **sections)
    reason = 'optimizer.name = "came": requires rows of the engine, which accelerate (DEEPSPEED) does not provide.'
    assert problem.startswith(reason)
    (tmp_path / "accelerate.yaml").unlink()
    (problem,) = problems(tmp_path, **sections)
    assert problem.startswith("engine.config = ")


def hugging_face(folder: Path, **fields: Any) -> list[str]:
    return problems(folder, data={"source": {"name": "hugging_face", "path": "json", **fields}})


@pytest.mark.parametrize(
    "fields",
    [
        {"data_files": {"train": "a.json"}},
        {"data_files": {"train": ["data/*.json", "data/**/*.json"]}},
        {"data_files": {"train": "[odd].json"}},
        {"data_files": {"train": "hf://datasets/owner/name/a.json"}},
        {"data_files": {"train": "https://host/a.json"}},
        {"data_files": {"train": "/only/on/the/workers/a.json"}},
        {"data_files": {"train": "a.json"}, "train_split": "train[:80%]", "eval_split": "train[80%:90%]+train[90%:]"},
        {"data_files": {"train": "a.json", "test": "a.json"}, "eval_split": "test"},
        {"data_files": {"train": "a.json"}, "train_split": "all"},
        {"options": {"data_dir": "data"}},
        {"path": "owner/name", "eval_split": "test"},
    ],
    ids=str,
)
def test_data_sources_that_may_be_right(fields: dict[str, Any], tmp_path: Path) -> None:
    for name in ("a.json", "data/b.json", "[odd].json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert hugging_face(tmp_path, **fields) == []


def test_data_files_are_looked_for_one_by_one(tmp_path: Path) -> None:
    (tmp_path / "a.json").touch()
    (line,) = hugging_face(tmp_path, data_files={"train": ["a.json", "b.json"]})
    assert (
        line
        == f'data.source.data_files.train.1 = "b.json": no such file in {tmp_path}. Legal: a path or glob that exists'
    )


def test_every_phase_is_checked_as_a_job_of_its_own_and_a_fault_is_told_once(tmp_path: Path) -> None:
    """The second phase inherits the batch of the first, and the fault with it; the third has one of its own."""
    later = [{"train": {"steps": 2}}, {"train": {"steps": 2}, "batch": {"global_size": 3}}]
    lines = problems(tmp_path, batch={"global_size": 5}, resources={"workers": 6}, then=later)
    assert [line.partition(":")[0] for line in lines] == ["batch.global_size = 5", "then.1.batch.global_size = 3"]


def test_betas_that_the_rule_sde_can_scale(tmp_path: Path) -> None:
    adam = {"optimizer": {"name": "adamw"}, "batch": {"global_size": 1024}}
    assert problems(tmp_path, **adam, scaling={"rule": "sde", "reference_batch": 103}) == []
    assert problems(tmp_path, **adam, scaling={"rule": "sde", "reference_batch": 4096}) == []


def test_a_warmup_that_fits_as_it_grows(tmp_path: Path) -> None:
    warmup = {"name": "cosine", "warmup": {"fraction": 0.25, "scale_with_batch": True}}
    assert problems(tmp_path, schedule=warmup, scaling={"reference_batch": 32}) == []
    (line,) = problems(tmp_path, schedule=warmup, scaling={"reference_batch": 31})
    assert "0.25 x 128 / 31 = 1.032 fraction, is longer than the whole training. Legal: at most 0.2422" in line
