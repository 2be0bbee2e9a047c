"""What a plan says, compared with arithmetic by hand and with the sampler that serves the real batches."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest

from orchestrator.core.errors import UsageError
from orchestrator.data.sampler import split_micro_batches
from orchestrator.launch import plan as plan_module
from orchestrator.launch.plan import batch_rows, make_plan, num_moments, totals
from orchestrator.launch.prepare import prepare
from orchestrator.spec.load import dump_resolved


def test_the_arithmetic_by_hand(load):
    spec = load("batch: {global_size: 100, micro_size: 8}\nresources: {workers: 3}\n").spec
    row = batch_rows(spec)[2]
    # 100 = 34 + 33 + 33; 34 samples in backwards of at most 8 need 5, evenly 7, 7, 7, 7, 6.
    assert (row.smallest_slice, row.largest_slice, row.num_micro_batches, row.largest_micro_batch) == (33, 34, 5, 7)
    assert [row.workers for row in batch_rows(spec) if row.is_chosen] == [3]


@pytest.mark.parametrize(("workers", "expected"), [(1, 8), (4, 8), (5, 10)])
def test_how_many_workers_are_shown(workers, expected, load):
    spec = load("", (f"resources.workers={workers}",)).spec
    assert [row.workers for row in batch_rows(spec)] == list(range(1, expected + 1))


def test_no_more_workers_than_samples_are_legal(load):
    assert len(batch_rows(load("batch: {global_size: 3}\n").spec)) == 3


@pytest.mark.parametrize(("global_size", "micro_size"), [(97, 8), (128, None), (9, 1), (64, 5)])
def test_the_plan_is_what_the_sampler_does(global_size, micro_size, load):
    spec = load(f"batch: {{global_size: {global_size}, micro_size: {micro_size or 'null'}}}\n").spec
    ids = np.arange(global_size)
    for row in batch_rows(spec):
        served = [
            split_micro_batches(ids, rank=rank, world_size=row.workers, micro_batch_size=micro_size)
            for rank in range(row.workers)
        ]
        slices = [sum(part.num_samples for part in parts) for parts in served]
        assert (min(slices), max(slices)) == (row.smallest_slice, row.largest_slice)
        assert {len(parts) for parts in served} == {row.num_micro_batches}
        assert max(part.num_samples for parts in served for part in parts) == row.largest_micro_batch


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (("train.steps=10",), (10, 1280)),
        (("train.steps=null", "train.samples=1000"), (8, 1000)),
        (("train.steps=null", "train.epochs=2"), (None, None)),
    ],
)
def test_lengths(overrides, expected, load):
    assert totals(load("", overrides).spec) == expected


COUNT_STATE = """
import sys, torch
from orchestrator.core.tables import OPTIMIZERS, load
from orchestrator.spec.load import load_resolved
for path in sys.argv[1:]:
    config = load_resolved(path).optimizer
    model = torch.nn.Linear(5, 7, bias=False)
    optimizer = load(OPTIMIZERS, config.name)(config, model)
    model(torch.ones(1, 5)).sum().backward()
    optimizer.step()
    values = optimizer.state[model.weight].values()
    print(sum(isinstance(value, torch.Tensor) and value.numel() == 35 for value in values))
"""


def test_optimizer_state_is_what_the_optimizers_keep(load, tmp_path):
    """Counted on the real optimizers, in another process: this one stays free of torch."""
    expected = {
        "{name: sgd}": 0,
        "{name: sgd, momentum: 0.9}": 1,
        "{name: adamw}": 2,
        "{name: adamw, amsgrad: true}": 3,
        "{name: lamb}": 2,
    }
    paths = []
    for number, (optimizer, num_tensors) in enumerate(expected.items()):
        spec = load(f"optimizer: {optimizer}\n").spec
        assert num_moments(spec.optimizer) == num_tensors
        paths.append(tmp_path / f"{number}.yaml")
        paths[-1].write_text(dump_resolved(spec))
    ran = subprocess.run([sys.executable, "-c", COUNT_STATE, *paths], capture_output=True, text=True, check=True)
    assert [int(line) for line in ran.stdout.split()] == list(expected.values())


def test_a_whole_plan_touches_nothing(load, storage):
    loaded = load("batch: {global_size: 64}\nresources: {workers: 2, cpus_per_worker: 0.5, placement: spread}\n")
    before = sorted(loaded.folder.iterdir())
    plan = make_plan(loaded, storage, os.environ)
    # Linear(4, 8), BatchNorm1d(8) with two running statistics and an int64 counter, Linear(8, 2).
    num_parameters = 4 * 8 + 8 + 2 * 8 + 8 * 2 + 2
    assert plan.memory_unknown is None
    assert plan.memory is not None
    assert plan.memory.num_parameters == num_parameters
    assert plan.memory.weight_bytes == 4 * num_parameters + 4 * 2 * 8 + 8
    assert plan.memory.total_bytes == plan.memory.weight_bytes + 3 * 4 * num_parameters
    assert (plan.workers, plan.cpus_per_worker, plan.gpus_per_worker, plan.placement) == (2, 0.5, 0, "spread")
    assert plan.package.files == ("recipe.py", "spec.yaml")
    assert (plan.run_directory, plan.name_is_taken) == (storage / "tiny", False)
    assert (plan.tracking_uri, plan.experiment) == (f"sqlite:///{storage}/mlflow.db", "tiny")
    assert "global_size: 64" in plan.resolved
    assert sorted(loaded.folder.iterdir()) == before
    assert not storage.exists()


def test_a_plan_knows_taken_names_and_hides_passwords(load, storage, monkeypatch):
    monkeypatch.setattr(plan_module, "estimate_memory", lambda *_: "not asked for here")
    prepare(load(), storage)
    loaded = load("tracking: {uri: 'http://me:hunter2@mlflow:5000'}\n")
    plan = make_plan(loaded, storage, {})
    assert plan.name_is_taken
    assert plan.tracking_uri == "http://me:***@mlflow:5000"
    assert "hunter2" not in plan.resolved
    assert (plan.memory, plan.memory_unknown) == (None, "not asked for here")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "raise ValueError('no such weights')",
            "Recipe.build_model raised ValueError at recipe.py:3 .*: no such weights",
        ),
        ("import os; os._exit(5)", "building the model failed: exit code 5"),
        ("import time; time.sleep(100)", "building the model took longer than"),
    ],
)
def test_an_unknown_memory_says_why(line, message, load, storage, monkeypatch):
    recipe = f"class Recipe:\n    def build_model(self):\n        {line}\n"
    recipe += "    def build_datasets(self): ...\n    def loss(self, model, batch): ...\n"
    if "sleep" in line:
        monkeypatch.setattr(plan_module, "DESCRIBE_TIMEOUT_S", 0.5)
    plan = make_plan(load(recipe=recipe), storage, os.environ)
    assert plan.memory is None
    assert plan.memory_unknown is not None
    assert re.search(message, plan.memory_unknown), plan.memory_unknown


def test_a_recipe_that_prints_is_no_trouble(load, storage):
    recipe = load().folder.joinpath("recipe.py").read_text().replace("from torch", "print('hello'); from torch")
    assert make_plan(load(recipe=recipe), storage, os.environ).memory is not None


def test_too_much_to_upload_is_refused(load, storage):
    loaded = load()
    with (loaded.folder / "data.bin").open("wb") as stream:
        stream.truncate(513 * 2**20)
    with pytest.raises(UsageError, match="at most 512 MiB"):
        make_plan(loaded, storage, os.environ)


def test_planning_imports_no_torch_and_no_ray():
    script = "import sys, orchestrator.launch.plan, orchestrator.launch.prepare, orchestrator.launch.ray_jobs\n"
    script += "print(sorted({'torch', 'ray', 'mlflow', 'datasets'} & {name.split('.')[0] for name in sys.modules}))"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"
