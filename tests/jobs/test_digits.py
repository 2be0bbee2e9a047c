"""The digits recipe: nothing leaks from the held-out images, the expansion is cached once, the net learns."""

import dataclasses
import hashlib
import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import datasets
import numpy as np
import pytest
import torch

from orchestrator.spec.load import load_spec

FOLDER = Path(__file__).parents[2] / "jobs" / "digits"


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    spec = importlib.util.spec_from_file_location("digits_recipe", FOLDER / "recipe.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    return tmp_path / "large-batch-digits"


def saved_folders(cache: Path) -> list[str]:
    return [path.name for path in cache.iterdir() if path.suffix != ".lock"]


def test_split_holds_out_360_originals_of_all_classes(recipe: ModuleType) -> None:
    train, held_out = recipe.split_originals()
    assert len(held_out.labels) == 360
    assert sorted([*train.sources, *held_out.sources]) == list(range(1797))
    assert np.bincount(held_out.labels).min() >= 34
    assert np.bincount(held_out.labels).max() <= 38


def test_expansion_never_shows_a_held_out_image(recipe: ModuleType) -> None:
    train, held_out = recipe.split_originals()
    images = recipe.expand(train, 4000, seed=0)
    assert not set(images.sources) & set(held_out.sources)
    label_of = dict(zip(train.sources, train.labels, strict=True))
    assert all(label_of[source] == label for source, label in zip(images.sources, images.labels, strict=True))


def test_validation_takes_its_images_from_the_training_originals(recipe: ModuleType, cache: Path) -> None:
    originals, held_out = recipe.split_originals()
    train, validation = recipe.Digits(num_train_images=1437, validation=True).build_datasets()
    assert len(validation) == 287
    assert len(train) == 1437
    sources = [set(part.with_format(None)["source"]) for part in (train, validation)]
    assert sources[0] | sources[1] == set(originals.sources)
    assert not sources[0] & sources[1]
    assert not (sources[0] | sources[1]) & set(held_out.sources)


def test_expansion_keeps_the_originals_and_changes_the_rest(recipe: ModuleType) -> None:
    train, _ = recipe.split_originals()
    images = recipe.expand(train, 4000, seed=0)
    assert np.array_equal(images.pixels[:1437], train.pixels)
    assert (images.pixels[1437 : 2 * 1437] != train.pixels).any(axis=1).all()
    assert np.array_equal(images.pixels, recipe.expand(train, 4000, seed=0).pixels)
    assert not np.array_equal(images.pixels, recipe.expand(train, 4000, seed=1).pixels)


def test_no_distortion_is_the_identity(recipe: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = {field.name: 0.0 for field in dataclasses.fields(recipe.Distortion)} | {"elastic_smoothing_pixels": 1.0}
    monkeypatch.setattr(recipe, "DISTORTION", recipe.Distortion(**nothing))
    pixels = np.random.default_rng(0).integers(0, 256, (7, 64), dtype=np.uint8)
    chosen = np.array([6, 0, 3, 3])
    assert np.array_equal(recipe.transform(pixels, chosen, np.random.default_rng(0)), pixels[chosen])


def test_second_call_reads_the_cache(recipe: ModuleType, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, held_out = recipe.split_originals()
    first = recipe.cached_expansion(train, 1500, seed=0)

    def no_more(*_: object, **__: object) -> None:
        raise AssertionError("expanded again")

    monkeypatch.setattr(recipe, "expand", no_more)
    assert recipe.cached_expansion(train, 1500, seed=0)[:] == first[:]
    for other in ((train, 1500, 1), (train, 1501, 0), (held_out, 1500, 0)):
        with pytest.raises(AssertionError, match="expanded again"):
            recipe.cached_expansion(*other)


def test_interrupted_save_leaves_nothing(recipe: ModuleType, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, _ = recipe.split_originals()

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", interrupted)
        with pytest.raises(KeyboardInterrupt):
            recipe.cached_expansion(train, 1500, seed=0)
    assert saved_folders(cache) == []
    assert len(recipe.cached_expansion(train, 1500, seed=0)) == 1500


TWO_AT_ONCE = """
import hashlib, importlib.util, pathlib, sys, time
name, folder, recipe_file = sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3]
spec = importlib.util.spec_from_file_location("digits_recipe", recipe_file)
recipe = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = recipe
spec.loader.exec_module(recipe)
expand = recipe.expand
def slow_expand(*args, **kwargs):
    (folder / f"expanded.{name}").touch()
    time.sleep(1.0)  # long enough that the other process surely asks meanwhile
    return expand(*args, **kwargs)
recipe.expand = slow_expand
train, _ = recipe.split_originals()
(folder / f"ready.{name}").touch()
while not (folder / "go").exists():
    time.sleep(0.01)
rows = recipe.cached_expansion(train, 2000, seed=0)
print(hashlib.sha256(str(rows[:]).encode()).hexdigest())
"""


def test_two_processes_generate_once(recipe: ModuleType, tmp_path: Path) -> None:
    environment = {**os.environ, "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-c", TWO_AT_ONCE]
    processes = [
        subprocess.Popen(
            [*command, name, str(tmp_path), str(FOLDER / "recipe.py")],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in ("a", "b")
    ]
    try:
        while len(list(tmp_path.glob("ready.*"))) < 2 and all(process.poll() is None for process in processes):
            time.sleep(0.01)
        (tmp_path / "go").touch()
        outputs = [process.communicate(timeout=100) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert len(list(tmp_path.glob("expanded.*"))) == 1
    train, _ = recipe.split_originals()
    expected = hashlib.sha256(str(recipe.expand(train, 2000, seed=0).as_dataset()[:]).encode()).hexdigest()
    assert [output.strip() for output, _ in outputs] == [expected, expected]
    assert len(saved_folders(tmp_path / "cache" / "large-batch-digits")) == 1


def test_the_net_learns_and_reports_means(recipe: ModuleType, cache: Path) -> None:
    digits = recipe.Digits(hidden=8, num_train_images=2000)
    train, held_out = digits.build_datasets()
    assert (len(train), len(held_out)) == (2000, 360)
    torch.manual_seed(0)
    model = digits.build_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    batch = train[:512]
    for _ in range(30):
        loss, metrics = digits.loss(model, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(metrics["accuracy"]) > 0.9
    model.eval()
    with torch.no_grad():
        whole = digits.evaluate(model, held_out[:360])
        halves = [digits.evaluate(model, held_out[start : start + 180]) for start in (0, 180)]
    for name in ("loss", "accuracy"):
        torch.testing.assert_close(whole[name], (halves[0][name] + halves[1][name]) / 2)
    assert float(whole["accuracy"]) > 0.8


def test_the_spec_trains_this_recipe_on_1024_samples_per_step() -> None:
    spec = load_spec(FOLDER / "demo.yaml").spec
    assert (spec.name, spec.optimizer.name, spec.batch.global_size) == ("digits-lamb", "lamb", 1024)


def test_values_out_of_range_are_refused(recipe: ModuleType, cache: Path) -> None:
    with pytest.raises(ValueError, match=r"hidden value: 0\. Must be at least 1"):
        recipe.Digits(hidden=0)
    with pytest.raises(ValueError, match=r"num_train_images value: 1436\. Must be at least 1437"):
        recipe.Digits(num_train_images=1436).build_datasets()
