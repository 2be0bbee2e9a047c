"""Recipes that break their contract are told so by their own line."""

import json
import math
from pathlib import Path

import pytest
import torch
from support import make_run_directory, tiny_spec, train_here

from orchestrator.core.errors import CheckpointError, RecipeError
from orchestrator.spec.job import Recipe as RecipeConfig
from orchestrator.train.describe import describe
from orchestrator.train.recipe import CheckedLoss, load_recipe

LINE = "at tiny.py:"


def test_an_error_in_the_loss_names_the_users_line(tmp_path: Path) -> None:
    recipe = {"target": "tiny.py:Digits", "args": {"fail_at": 3}}
    directory = make_run_directory(tmp_path / "run", tiny_spec(recipe=recipe))
    with pytest.raises(RecipeError, match=r"Digits\.loss raised ValueError at tiny\.py:\d+ .*the digits are blurred"):
        train_here(str(directory.root))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import nowhere_to_be_found", "Importing broken.py:R raised ModuleNotFoundError at broken.py:1"),
        ("x = 1", "has no class 'R'"),
        ("class R:\n    def __init__(self):\n        1 / 0", "R.. raised ZeroDivisionError at broken.py:3"),
    ],
)
def test_a_recipe_that_cannot_be_made(tmp_path: Path, monkeypatch, source: str, message: str) -> None:
    import sys

    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "broken", raising=False)
    (tmp_path / "broken.py").write_text(source, encoding="utf-8")
    with pytest.raises(RecipeError, match=message):
        load_recipe(RecipeConfig(target="broken.py:R"), tmp_path)
    sys.modules.pop("broken", None)


class Returns:
    def __init__(self, result):
        self.result = result

    def loss(self, model, batch):
        return self.result


LOSS = torch.ones((), requires_grad=True)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (LOSS, "must return .loss, metrics."),
        ((LOSS, [1]), "must return .loss, metrics."),
        ((torch.ones(2, requires_grad=True), {}), "scalar tensor with a gradient"),
        ((torch.ones(()), {}), "scalar tensor with a gradient"),
        ((LOSS, {"accuracy": 0.5}), "metric 'accuracy' must be a scalar tensor"),
        ((LOSS, {"loss": LOSS}), "metric 'loss'"),
    ],
)
def test_a_loss_of_the_wrong_form(result, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        CheckedLoss(Returns(result), Path("/"))(None, None)


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    first = make_run_directory(tmp_path / "first", tiny_spec())
    train_here(str(first.root))
    second = make_run_directory(tmp_path / "second", tiny_spec(optimizer={"name": "sgd", "lr": 0.2}))
    first.checkpoints.rename(second.checkpoints)
    with pytest.raises(CheckpointError, match="another training"):
        train_here(str(second.root))


def test_a_model_is_described_without_being_built(tmp_path: Path) -> None:
    directory = make_run_directory(tmp_path / "run", tiny_spec())
    answer = tmp_path / "answer.json"
    describe(directory.code, directory.resolved_spec, answer, (4,))
    found = json.loads(answer.read_text(encoding="utf-8"))
    num_parameters = 64 * 16 + 16 + 2 * 16 + 16 * 10 + 10
    parameters = found["parameters"]
    assert sum(math.prod(parameter["shape"]) for parameter in parameters) == num_parameters
    assert all(parameter["trainable"] and parameter["item_bytes"] == 4 for parameter in parameters)
    assert found["buffer_bytes"] == 0
    assert [backward["num_samples"] for backward in found["backwards"]] == [4]
