"""Phases of a training: one model and optimizer, each phase with its own data, batch, rate and warmup."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from support import (
    ListTracker,
    assert_same_weights,
    context_here,
    make_run_directory,
    tiny_spec,
    train_on,
    weights,
)
from torch.nn import functional as F

from orchestrator.core.errors import CheckpointError, RecipeError
from orchestrator.core.run_directory import RunDirectory
from orchestrator.core.seeding import seed_everything
from orchestrator.data.randomness import phase_seed
from orchestrator.data.sampler import GlobalOrder
from orchestrator.spec.load import load_recipe_job
from orchestrator.train.assemble import assemble
from orchestrator.train.phases import train_phases

ADAMW = {"name": "adamw", "lr": 0.01, "weight_decay": 0.1, "eps": 1e-6}
SECOND = {
    "train": {"samples": 250},  # 7 steps of 40 or less: the last takes 10
    "recipe": {"args": {"num_train": 90, "smoothing": 0.1}},  # 250 samples are almost three epochs
    "batch": {"global_size": 40, "micro_size": 16},
    "optimizer": {"lr": 0.02},
    "schedule": {"name": "polynomial", "warmup": {"samples": 120}},
}
STEPS = (8, 7)


def spec(rule: str = "sqrt", workers: int = 1, **sections: Any):
    given = {
        "train": {"steps": STEPS[0], "eval_every": 5},
        "batch": {"global_size": 96},
        "optimizer": ADAMW,
        "schedule": {"name": "polynomial", "warmup": {"steps": 2}},
        "scaling": {"rule": rule, "reference_batch": 24},
        "then": [SECOND],
        "checkpoint": {"every": 3, "keep": 100},
        "resources": {"workers": workers},
    }
    return tiny_spec(**{**given, **sections})


def train(root: Path, workers: int = 1, **arguments: Any) -> RunDirectory:
    directory = make_run_directory(root, spec(workers=workers, **arguments))
    for outcome, _ in train_on(workers, directory):
        assert outcome == "finished"
    return directory


def resume(root: Path, whole: RunDirectory, step: int, workers: int = 1, **arguments: Any) -> RunDirectory:
    """Train on from a copy of one checkpoint of another run."""
    directory = make_run_directory(root, spec(workers=workers, **arguments))
    shutil.copytree(whole.checkpoints / f"step_{step}", directory.checkpoints / f"step_{step}")
    train_on(workers, directory)
    return directory


def manifest(directory: RunDirectory, step: int) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((directory.checkpoints / f"step_{step}" / "manifest.json").read_text())
    return content


def trained_by_hand(rule: str) -> dict[str, torch.Tensor]:
    """Both phases in plain torch, every number of them worked out here: k is 4, then 40 / 24."""
    from tiny import Digits  # importable since the run before

    seed_everything(0)
    model = Digits().build_model()
    decayed = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-6)
    # Samples of the phase, batch, peak rate, warmup samples, arguments of the recipe, seed of the order.
    phases = [
        (768, 96, 0.01 * 2, 192, {}, 0),
        (250, 40, 0.02 * (40 / 24) ** 0.5, 120, {"num_train": 90, "smoothing": 0.1}, phase_seed(0, 1)),
    ]
    for num_samples, batch, peak, warmup, arguments, seed in phases:
        recipe = Digits(**arguments)
        rows, _ = recipe.build_datasets()
        order = GlobalOrder(len(rows), seed)
        if rule == "sde":
            k = batch / 24
            for group in optimizer.param_groups:
                group.update(betas=(1 - k * (1 - 0.9), 1 - k * (1 - 0.999)), eps=1e-6 / k**0.5)
        seen = 0
        while seen < num_samples:
            size = min(batch, num_samples - seen)
            rate = peak * min(1.0, (seen + size) / warmup) * (1 - max(0.0, (seen - warmup) / (num_samples - warmup)))
            for group in optimizer.param_groups:
                group["lr"] = rate
            ids = order.take(seen, size)
            images = torch.stack([rows[i]["image"] for i in ids])
            labels = torch.tensor([rows[i]["label"] for i in ids])
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels, label_smoothing=recipe.smoothing).backward()
            optimizer.step()
            seen += size
    return dict(model.state_dict())


@pytest.mark.parametrize("rule", ["sqrt", "sde"])
def test_two_phases_are_those_of_a_hand_written_loop(tmp_path: Path, rule: str) -> None:
    directory = train(tmp_path / "run", rule=rule)
    expected = trained_by_hand(rule)
    for name, tensor in weights(directory).items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-6)


def test_steps_and_samples_go_on_counting_and_each_phase_has_its_rates(tmp_path: Path) -> None:
    directory = make_run_directory(tmp_path / "run", spec())
    ((outcome, lines),) = train_on(1, directory)
    assert outcome == "finished"
    assert [line["step"] for line in lines] == list(range(1, 16))
    sizes = [96] * 8 + [40] * 6 + [10]
    assert [line["global_size"] for line in lines] == sizes
    assert [line["samples"] for line in lines] == [sum(sizes[: i + 1]) for i in range(15)]
    peaks = [0.02, 0.02 * (40 / 24) ** 0.5]
    assert [line["lr"] for line in lines[:3]] == pytest.approx([peaks[0] / 2, peaks[0], peaks[0]])
    assert lines[7]["lr"] == pytest.approx(peaks[0] / 6)
    # The second warmup starts from 0 again and reaches its own peak after 120 samples.
    assert [line["lr"] for line in lines[8:12]] == pytest.approx([peaks[1] / 3, peaks[1] * 2 / 3, peaks[1], peaks[1]])
    # Every 5 steps, and at the end of each phase.
    assert [line["step"] for line in lines if "eval/loss" in line] == [5, 8, 10, 15]


def test_a_checkpoint_knows_its_phase(tmp_path: Path) -> None:
    directory = train(tmp_path / "run")
    first = {"index": 0, "step": 0, "samples": 0}
    second = {"index": 1, "step": 8, "samples": 768}
    found = {step: manifest(directory, step) for step in (6, 8, 9, 12, 15)}
    assert [found[step]["phase"] for step in found] == [first, first, second, second, second]
    assert [found[step]["data"]["samples"] for step in found] == [576, 768, 40, 160, 250]


# One in the first phase, its end, and two in the second; eps and betas of sde are those of the phase.
@pytest.mark.parametrize("optimizer", [ADAMW, {"name": "lamb", "lr": 0.02, "eps": 1e-6}], ids=lambda o: o["name"])
def test_resumed_in_any_phase_it_is_the_undisturbed_job_bit_for_bit(tmp_path: Path, optimizer: dict[str, Any]) -> None:
    arguments = {"rule": "sde", "optimizer": optimizer}
    arguments["recipe"] = {"target": "tiny.py:Digits", "args": {"dropout": 0.2}}
    whole = train(tmp_path / "whole", **arguments)
    for step in (3, 8, 9, 12):
        assert_same_weights(whole, resume(tmp_path / f"from_{step}", whole, step, **arguments))


@pytest.mark.distributed
def test_two_workers_take_the_same_steps_and_resume_bit_for_bit(tmp_path: Path) -> None:
    alone = train(tmp_path / "alone")
    two = train(tmp_path / "two", workers=2)
    assert_same_weights(alone, two, atol=1e-5)
    assert_same_weights(two, resume(tmp_path / "resumed", two, 12, workers=2))
    # Another number of workers continues in the second phase as well.
    assert_same_weights(two, resume(tmp_path / "one", two, 9), atol=1e-5)


@pytest.mark.distributed
@pytest.mark.parametrize("engine", ["fsdp2", {"name": "deepspeed", "zero_stage": 2}], ids=["fsdp2", "zero 2"])
def test_phases_are_the_same_on_divided_models(tmp_path: Path, engine: Any) -> None:
    arguments = {"rule": "sde", "engine": {"name": engine} if isinstance(engine, str) else engine}
    alone = train(tmp_path / "alone", rule="sde")
    two = train(tmp_path / "two", workers=2, **arguments)
    assert_same_weights(alone, two, atol=1e-5)
    assert_same_weights(two, resume(tmp_path / "resumed", two, 12, workers=2, **arguments))


def announced(root: str) -> list[tuple[str, dict[str, Any]]]:
    context, tracker = context_here(root), ListTracker()
    job = load_recipe_job(context.run_directory.resolved_spec)
    train_phases(assemble(job, context, tracker), context, tracker)
    return [(name, fields) for name, fields in tracker.events if name != "checkpoint_saved"]


def test_the_change_is_an_event_and_lengths_cover_all_phases(tmp_path: Path) -> None:
    directory = make_run_directory(tmp_path / "run", spec())
    (first, started), (second, changed) = announced(str(directory.root))
    assert (first, second) == ("started", "phase")
    fields = ("step", "samples", "phase", "phases", "global_size", "total_steps", "total_samples")
    # 250 samples are a number of steps only once they are taken.
    assert [started[name] for name in fields] == [0, 0, 1, 2, 96, None, 768 + 250]
    assert [changed[name] for name in fields] == [8, 768, 2, 2, 40, None, 768 + 250]


@pytest.mark.parametrize(
    ("length", "steps", "samples"), [({"steps": 5}, 13, 768 + 200), ({"epochs": 2}, None, 768 + 180)]
)
def test_the_whole_length_is_known_from_the_start(
    tmp_path: Path, length: dict[str, int], steps: int | None, samples: int
) -> None:
    directory = make_run_directory(tmp_path / "run", spec(then=[{**SECOND, "train": length}]))
    for _, fields in announced(str(directory.root)):
        assert (fields["total_steps"], fields["total_samples"]) == (steps, samples)


def test_resumed_in_the_second_phase_it_says_so(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole")
    directory = make_run_directory(tmp_path / "run", spec())
    shutil.copytree(whole.checkpoints / "step_12", directory.checkpoints / "step_12")
    ((name, fields),) = announced(str(directory.root))
    assert (name, fields["step"], fields["phase"], fields["samples"]) == ("resumed", 12, 2, 768 + 160)


def test_a_stop_asked_for_in_the_last_step_of_a_phase_stops_there(tmp_path: Path) -> None:
    """The stop file is there from the start, and the first phase has one step only."""
    sections = {"train": {"steps": 1}, "schedule": {"name": "constant"}}
    directory = make_run_directory(tmp_path / "run", spec(**sections))
    directory.stop_file.touch()
    ((outcome, lines),) = train_on(1, directory)
    assert (outcome, len(lines)) == ("stopped", 1)
    directory.stop_file.unlink()
    train_on(1, directory)
    assert_same_weights(train(tmp_path / "whole", **sections), directory)


def test_a_later_recipe_that_cannot_be_made_is_an_error_at_the_start(tmp_path: Path) -> None:
    then = [{"train": {"steps": 1}, "recipe": {"args": {"no_such_argument": 1}}}]
    directory = make_run_directory(tmp_path / "run", spec(then=then))
    with pytest.raises(RecipeError, match="no_such_argument"):
        train_on(1, directory)
    assert not directory.checkpoints.exists()


def test_a_checkpoint_of_other_phases_is_refused(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole")
    with pytest.raises(CheckpointError, match="another training"):
        resume(tmp_path / "resumed", whole, 12, then=[{**SECOND, "train": {"samples": 240}}])
