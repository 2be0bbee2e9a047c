"""The pairs recipes: what is held out, what is retrieved, and image-caption pairs from local files."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from orchestrator.data.sources import hugging_face_datasets
from orchestrator.spec.methods.sources import HuggingFaceSource

FOLDER = Path(__file__).parents[2] / "jobs" / "pairs"
CAPTIONS = ("a red square", "a green square", "", "a blue one, öfter")
COLORS = ((255, 0, 0), (0, 255, 0), (0, 0, 0), (0, 0, 255))


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pairs_recipe", FOLDER / "recipe.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_500_pairs_are_held_out(recipe: ModuleType) -> None:
    train, held_out = recipe.Pairs().build_datasets()
    assert (len(train), len(held_out)) == (1297, 500)
    fewer, validation = recipe.Pairs(validation=True).build_datasets()
    assert (len(fewer), len(validation)) == (1000, 297)

    def rows(*parts: Any) -> list[bytes]:
        whole = [torch.cat([part[:]["first"], part[:]["second"]], 1) for part in parts]
        return sorted(row.numpy().tobytes() for row in torch.cat(whole))

    images = torch.tensor(load_digits().data / 8 - 1, dtype=torch.float32)
    assert rows(train, held_out) == sorted(image.numpy().tobytes() for image in images)
    assert rows(fewer, validation) == rows(train)


def test_recall_counts_nearest_views_that_are_the_own(recipe: ModuleType) -> None:
    pairs = recipe.Pairs()
    x = torch.eye(4)
    y = torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0.1], [0, 0, 1, 0.5]])
    # x: 0 and 1 find their own (1 before 2), 2 finds 3, 3 finds its own; y: 0 and 1 find theirs, 2 finds 1, 3 finds 2.
    got = pairs.evaluate_all([(x[:3], y[:3]), (x[3:], y[3:])])
    assert got == pytest.approx({"recall_at_1": 0.625, "recall_forward": 0.75, "recall_back": 0.5})


@pytest.mark.parametrize("kind", ["sigmoid", "softmax"])
def test_the_towers_learn(recipe: ModuleType, kind: str) -> None:
    pairs = recipe.Pairs(kind=kind, width=32)
    train, _ = pairs.build_datasets()
    torch.manual_seed(0)
    model, batch = pairs.build_model(), train[:64]
    assert ("bias" in dict(model.named_parameters())) == (kind == "sigmoid")
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.003)
    before = pairs.evaluate_all([pairs.predict(model, batch)])["recall_at_1"]
    for _ in range(80):
        loss, metrics = pairs.loss(model, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert set(metrics) == ({"scale", "bias"} if kind == "sigmoid" else {"scale"})
    assert before < 0.2
    assert pairs.evaluate_all([pairs.predict(model, batch)])["recall_at_1"] > 0.8


def test_an_unknown_loss_is_refused(recipe: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"kind value: hinge\. Must be one of sigmoid, softmax"):
        recipe.Pairs(kind="hinge")


def write_folder(root: Path) -> HuggingFaceSource:
    """Images beside a metadata file, as image-caption sets are published in folders."""
    (root / "train").mkdir()
    lines = []
    for number, (caption, color) in enumerate(zip(CAPTIONS, COLORS, strict=True)):
        Image.new("RGB", (20, 10), color).save(root / "train" / f"{number}.png")
        lines.append(json.dumps({"file_name": f"{number}.png", "text": caption}))
    (root / "train" / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return HuggingFaceSource.model_validate(
        {"name": "hugging_face", "path": "imagefolder", "data_files": {"train": "train/*"}, "train_split": "train"}
    )


def write_parquet(root: Path) -> HuggingFaceSource:
    """Images inside the rows of a Parquet file, as they are published on the hub."""
    import datasets

    images = [Image.new("RGB", (20, 10), color) for color in COLORS]
    features = datasets.Features(image=datasets.Image(), text=datasets.Value("string"))
    rows = datasets.Dataset.from_dict({"image": images, "text": list(CAPTIONS)}, features=features)
    rows.to_parquet(str(root / "train.parquet"))
    return HuggingFaceSource.model_validate(
        {"name": "hugging_face", "path": "parquet", "data_files": {"train": "train.parquet"}, "train_split": "train"}
    )


@pytest.mark.parametrize("write", [write_folder, write_parquet])
def test_captions_come_from_local_files(recipe: ModuleType, tmp_path: Path, monkeypatch, write) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    captions = recipe.Captions(kind="softmax", width=8, embedding=4, length=16, image_size=8)
    train, _ = hugging_face_datasets(write(tmp_path), captions, tmp_path)
    batch = captions.collate([train[i] for i in range(len(train))])
    assert batch["first"].shape == (4, 3, 8, 8)
    np.testing.assert_allclose(batch["first"][:, :, 0, 0], np.array(COLORS) / 127.5 - 1)
    for row, caption in zip(batch["second"].tolist(), CAPTIONS, strict=True):
        expected = list(caption.encode()[:16])
        assert row == expected + [256] * (16 - len(expected))
    loss, _ = captions.loss(captions.build_model(), batch)
    loss.backward()
    assert bool(loss.isfinite())
