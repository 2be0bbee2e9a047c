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
from orchestrator.launch.memory import ask
from orchestrator.launch.memory.step import optimizer_cost
from orchestrator.launch.phases import phase_plans, totals
from orchestrator.launch.plan import batch_rows, make_plan
from orchestrator.launch.prepare import prepare
from orchestrator.spec.load import dump_resolved
from orchestrator.spec.problems import SpecError


def test_the_arithmetic_by_hand(load):
    spec = load("batch: {global_size: 100, micro_size: 8}\nresources: {workers: 3}\n").spec
    row = batch_rows(spec)[2]
    # 100 = 34 + 33 + 33; 34 samples in backwards of at most 8 need 5, evenly 7, 7, 7, 7, 6.
    assert (row.smallest_slice, row.largest_slice, row.num_micro_batches, row.largest_micro_batch) == (33, 34, 5, 7)
    assert [row.workers for row in batch_rows(spec) if row.is_chosen] == [3]


def test_every_number_of_a_range_is_marked(load):
    spec = load("batch: {global_size: 64}\nresources: {workers: {min: 2, max: 5}}\n").spec
    assert [row.workers for row in batch_rows(spec) if row.is_chosen] == [2, 3, 4, 5]
    assert len(batch_rows(spec)) == 10


def test_a_range_needs_the_most_that_any_of_its_numbers_needs(load, storage):
    spec = "batch: {global_size: 64}\nengine: fsdp2\n"
    plans = [
        make_plan(load(f"{spec}resources: {{workers: {workers}}}\n"), storage, os.environ)
        for workers in ("{min: 2, max: 4}", "2", "4")
    ]
    ranged, least, _ = (plan.memory for plan in plans)
    assert (plans[0].workers, plans[0].max_workers, plans[1].max_workers) == (2, 4, 2)
    peaks = [plan.memory.peak.total for plan in plans[1:]]
    assert ranged.peak.total == max(row.peaks["fsdp2"].total for row in ranged.rows if row.is_chosen) >= max(peaks)
    assert ranged.checkpoint_copy == least.checkpoint_copy
    assert [row.workers for row in ranged.rows if row.is_chosen] == [2, 3, 4]


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
        (("then=[{train: {steps: 3}, batch: {global_size: 32}}]",), (6, 3 * 128 + 3 * 32)),
        (("then=[{train: {samples: 200}}]",), (5, 3 * 128 + 200)),
        (("then=[{train: {epochs: 2}}]",), (None, None)),
    ],
)
def test_lengths(overrides, expected, load):
    assert totals(load("", overrides).spec) == expected


PHASES = """
optimizer: {name: adamw, lr: 0.01, eps: 1.0e-6}
batch: {global_size: 256}
scaling: {rule: sde, reference_batch: 64}
schedule: {name: polynomial, warmup: {fraction: 0.1, scale_with_batch: true}}
resources: {workers: 2}
then:
  - train: {epochs: 3}
    batch: {global_size: 64, micro_size: 8}
    optimizer: {lr: 0.002}
"""


def test_every_phase_by_hand(load):
    """k is 4, so the warmup of a tenth grows to four tenths; then k is 1, and a tenth of three epochs stays one."""
    first, second = phase_plans(load(PHASES, ("train.steps=10",)).spec)
    assert (first.total_steps, first.total_samples, first.epochs, first.global_batch_size) == (10, 2560, None, 256)
    assert (first.peak_lr, first.betas, first.eps) == (0.02, pytest.approx((0.6, 0.996)), 5e-7)
    assert (first.warmup_samples, first.warmup_epochs) == (pytest.approx(0.4 * 2560), None)
    assert (second.total_steps, second.total_samples, second.epochs, second.global_batch_size) == (None, None, 3, 64)
    assert (second.peak_lr, second.betas, second.eps) == (0.002, pytest.approx((0.9, 0.999)), 1e-6)
    assert (second.warmup_samples, second.warmup_epochs) == (None, pytest.approx(0.3))
    assert (first.division.num_micro_batches, second.division.num_micro_batches) == (1, 4)


def test_as_many_updates_as_at_the_reference_are_planned(load):
    """1,000 samples at a batch of 32 are 32 steps; so many of 128 take 4,000 samples."""
    overrides = ("train.steps=null", "train.samples=1000", "scaling={same_updates: true, reference_batch: 32}")
    warmup = "schedule={name: cosine, warmup: {samples: 100}}"
    (only,) = phase_plans(load("", (*overrides, warmup)).spec)
    assert (only.total_steps, only.total_samples, only.warmup_samples) == (32, 4000, 400.0)
    (in_epochs,) = phase_plans(load("", (*overrides, "train.samples=null", "train.epochs=3")).spec)
    assert in_epochs.epochs == 12


def test_rules_that_leave_the_averages_alone_say_nothing_of_them(load):
    (only,) = phase_plans(load("scaling: {rule: sqrt, reference_batch: 32}\n").spec)
    assert (only.peak_lr, only.betas, only.eps) == (0.002, None, None)
    assert (only.warmup_samples, only.warmup_epochs) == (0.0, None)


COUNT_TENSORS = """
import sys, torch
from orchestrator.core.collectives import Collectives
from orchestrator.core.tables import OPTIMIZERS, load
from orchestrator.spec.load import load_recipe_job
from orchestrator.train.activations import REST, Trace
for path in sys.argv[1:]:
    config = load_recipe_job(path).optimizer
    model = torch.nn.Linear(50, 70, bias=False)
    optimizer = load(OPTIMIZERS, config.name)(config, model, Collectives())
    model(torch.ones(1, 50)).sum().backward()
    tell = getattr(optimizer, "take_loss", lambda loss: None)
    for _ in range(8):  # RAdam's first steps are plainer
        tell(torch.ones(()))
        optimizer.step()
    values = [v for v in optimizer.state[model.weight].values() if isinstance(v, torch.Tensor)]
    with Trace([model.weight, model.weight.grad, *values]) as trace:
        trace.enter(REST)
        tell(torch.ones(()))
        optimizer.step()
    print(sum(v.numel() == 3500 for v in values), trace.segments[0].peak // (4 * 3500))
"""


def test_optimizers_keep_and_compute_what_is_planned(load, tmp_path):
    """Counted on the real optimizers, in another process: this one stays free of torch."""
    expected = {
        "{name: sgd}": (0, 0),
        "{name: sgd, momentum: 0.9}": (1, 0),
        "{name: sgd, weight_decay: 0.1}": (0, 1),
        "{name: adamw}": (2, 2),
        "{name: adamw, amsgrad: true}": (3, 2),
        "{name: lamb, implementation: eager}": (2, 2),
        "{name: lars, adapt: all}": (1, 1),
        "{name: lans}": (2, 3),
        "{name: novograd}": (1, 1),
        "{name: lawn, free_steps: 2}": (2, 3),
        "{name: swats}": (2, 3),
        "{name: adagrad_norm}": (0, 0),
        "{name: momo}": (1, 1),
        "{name: adafactor}": (0, 1),
        "{name: came}": (1, 2),
        "{name: radam, weight_decay: 0.1}": (2, 6),
        "{name: nadam, weight_decay: 0.1}": (2, 3),
        "{name: adagrad, weight_decay: 0.1}": (1, 2),
        "{name: lion}": (1, 1),
        "{name: adabelief}": (2, 2),
        "{name: adabelief, ams_bound: true}": (3, 2),
        "{name: adopt}": (2, 1),
        "{name: adabound}": (2, 1),
        "{name: adabound, ams_bound: true}": (3, 1),
        "{name: mars}": (3, 3),
        "{name: dadapt_adam}": (3, 2),
        "{name: prodigy}": (4, 1),
    }
    paths = []
    for number, (optimizer, counts) in enumerate(expected.items()):
        spec = load(f"optimizer: {optimizer}\n").spec
        cost = optimizer_cost(spec.optimizer, on_gpu=False)
        assert (cost.moments, cost.in_passing) == counts
        paths.append(tmp_path / f"{number}.yaml")
        paths[-1].write_text(dump_resolved(spec))
    ran = subprocess.run([sys.executable, "-c", COUNT_TENSORS, *paths], capture_output=True, text=True, check=True)
    assert [tuple(map(int, line.split())) for line in ran.stdout.splitlines()] == list(expected.values())


@pytest.mark.parametrize(
    ("optimizer", "engines"),
    [
        ("adamw", ["ddp", "fsdp2", "deepspeed 0", "deepspeed 1", "deepspeed 2", "deepspeed 3"]),
        ("adafactor", ["ddp", "fsdp2", "deepspeed 0"]),
        ("muon", ["ddp", "deepspeed 0"]),
    ],
)
def test_engines_that_would_refuse_the_job_have_no_memory(optimizer, engines, load, storage):
    spec = load(f"optimizer: {optimizer}\n")
    assert list(make_plan(spec, storage, os.environ).memory.rows[0].peaks) == engines
    # What `check` says of each of them.
    for engine in ("fsdp2", "{name: deepspeed, zero_stage: 0}", "{name: deepspeed, zero_stage: 2}"):
        title = engine.strip("{}").replace("name: ", "").replace(", zero_stage:", "")
        if title in engines:
            load(f"optimizer: {optimizer}\nengine: {engine}\n")
        else:
            with pytest.raises(SpecError, match="of the engine, which"):
                load(f"optimizer: {optimizer}\nengine: {engine}\n")


def test_second_derivatives_are_not_planned(load, storage):
    plan = make_plan(load("optimizer: adahessian\n"), storage, os.environ)
    assert plan.memory is None
    assert plan.memory_unknown == "the optimizer differentiates the loss twice, and what that keeps is not traced."


def test_a_whole_plan_touches_nothing(load, storage):
    loaded = load("batch: {global_size: 64}\nresources: {workers: 2, cpus_per_worker: 0.5, placement: spread}\n")
    before = sorted(loaded.folder.iterdir())
    plan = make_plan(loaded, storage, os.environ)
    # Linear(4, 8), BatchNorm1d(8) with two running statistics and an int64 counter, Linear(8, 2).
    num_parameters = 4 * 8 + 8 + 2 * 8 + 8 * 2 + 2
    assert plan.memory_unknown is None
    assert plan.memory is not None
    assert plan.memory.num_parameters == num_parameters
    assert plan.memory.peak.parameters == 4 * num_parameters + 4 * 2 * 8 + 8
    assert plan.memory.peak.gradients == 4 * num_parameters
    # AdamW's two moments, and two temporaries of the size of the largest tensor.
    assert plan.memory.peak.optimizer == 4 * (2 * num_parameters + 2 * 32)
    assert plan.memory.checkpoint_copy == (plan.memory.peak.parameters + 8 * num_parameters) / 2
    assert plan.memory.activations_unknown == "Recipe.build_datasets: the training data are empty."
    assert [row.workers for row in plan.memory.rows if row.is_chosen] == [2]
    assert (plan.workers, plan.cpus_per_worker, plan.gpus_per_worker, plan.placement) == (2, 0.5, 0, "spread")
    assert plan.package.files == ("recipe.py", "spec.yaml")
    assert (plan.run_directory, plan.name_is_taken) == (storage / "tiny", False)
    assert (plan.tracking_uri, plan.experiment) == (f"sqlite:///{storage}/mlflow.db", "tiny")
    assert "global_size: 64" in plan.resolved
    assert sorted(loaded.folder.iterdir()) == before
    assert not storage.exists()


def test_a_plan_knows_taken_names_and_hides_passwords(load, storage, monkeypatch):
    monkeypatch.setattr(plan_module, "plan_memory", lambda *_: "not asked for here")
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
        monkeypatch.setattr(ask, "DESCRIBE_TIMEOUT_S", 0.5)
    plan = make_plan(load(recipe=recipe), storage, os.environ)
    assert plan.memory is None
    assert plan.memory_unknown is not None
    assert re.search(message, plan.memory_unknown), plan.memory_unknown


def test_a_recipe_that_prints_is_no_trouble(load, storage):
    recipe = load().folder.joinpath("recipe.py").read_text().replace("from torch", "print('hello'); from torch")
    assert make_plan(load(recipe=recipe), storage, os.environ).memory is not None


LEARNING = """
import torch
from torch import nn

class Recipe:
    def build_model(self):
        return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))

    def build_datasets(self):
        return [torch.zeros(4)] * 20, None

    def loss(self, model, batch):
        loss = model(batch).mean()
        return loss, {}
"""


def test_activations_are_those_of_a_real_batch(load, storage):
    plan = make_plan(load("batch: {global_size: 16, micro_size: 8}\n", recipe=LEARNING), storage, os.environ)
    assert plan.memory is not None
    assert plan.memory.activations_unknown is None
    peaks = [row.peaks["ddp"] for row in plan.memory.rows]
    # 8 samples on up to 2 workers, 2 samples on 8; a batch is 8 x 4 numbers.
    assert peaks[0] == peaks[1]
    assert peaks[0].activations > 2 * peaks[7].activations
    for workers, samples in ((1, 8), (8, 2)):
        # In the backward of the second layer: the batch, what the ReLU kept, the gradients of outputs and hidden.
        assert peaks[workers - 1].activations >= 4 * samples * (4 + 8 + 2 + 8)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("loss = model(batch).mean() * (1 if batch.sum().item() else 2)", "Recipe.loss raised DataDependentOutput"),
        ("loss = model(batch).mean().detach()", "must return a scalar tensor with a gradient"),
    ],
)
def test_unknown_activations_are_not_guessed(line, reason, load, storage):
    recipe = LEARNING.replace("loss = model(batch).mean()", line)
    plan = make_plan(load("batch: {global_size: 16}\n", recipe=recipe), storage, os.environ)
    assert plan.memory is not None
    assert reason in str(plan.memory.activations_unknown)
    assert plan.memory.peak.activations == 0


def test_what_was_known_before_a_failure_is_shown(load, storage):
    recipe = LEARNING.replace("return [torch", "import os; os._exit(5); return [torch")
    plan = make_plan(load("batch: {global_size: 16}\n", recipe=recipe), storage, os.environ)
    assert plan.memory is not None
    assert plan.memory.num_parameters == 58
    assert plan.memory.activations_unknown == "reading the data and tracing a backward failed: exit code 5"


@pytest.mark.parametrize(
    ("engine", "title"),
    [
        ("{name: fsdp2, mesh: {replicate: 2}}", "fsdp2"),
        ("{name: deepspeed, zero_stage: 1}", "deepspeed 1"),
        ("{name: accelerate, config: {distributed_type: FSDP, fsdp_config: {fsdp_version: 2}}}", "accelerate"),
        (
            "{name: accelerate, config: {distributed_type: DEEPSPEED, deepspeed_config: {zero_stage: 2}}}",
            "accelerate",
        ),
    ],
)
def test_every_engine_has_its_formula(engine, title, load, storage):
    loaded = load(f"resources: {{workers: 4}}\nengine: {engine}\n", recipe=LEARNING)
    memory = make_plan(loaded, storage, os.environ).memory
    assert memory is not None
    assert memory.engine == title
    assert memory.rows[3].peaks[title] == memory.peak
    # Two replica groups are not possible on three workers.
    assert (memory.rows[2].peaks[title] is None) == (title == "fsdp2")


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
