"""The scenes recipes: what lies where, losses and decoding against loops, metrics that do not depend on the batches."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from torch import Tensor

FOLDER = Path(__file__).parents[2] / "jobs" / "scenes"


@pytest.fixture(scope="module")
def recipe() -> Iterator[ModuleType]:
    sys.path.insert(0, str(FOLDER))
    spec = importlib.util.spec_from_file_location("scenes_recipe", FOLDER / "recipe.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(FOLDER))


@pytest.fixture(scope="module")
def composition(recipe: ModuleType) -> ModuleType:
    return sys.modules["composition"]


@pytest.fixture(scope="module")
def scenes(composition: ModuleType) -> dict[str, np.ndarray]:
    return composition.compose(composition.split_originals()[0], 40, seed=0)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    return tmp_path / "large-batch-scenes"


def batch_of(scenes: dict[str, np.ndarray]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(values) for name, values in scenes.items()}


def test_boxes_are_tight_around_the_ink_of_their_digits(scenes: dict[str, np.ndarray]) -> None:
    for mask, boxes, labels in zip(
        scenes["mask"].reshape(-1, 64, 64), scenes["boxes"].reshape(-1, 4, 4), scenes["labels"], strict=True
    ):
        covered = np.zeros((64, 64), dtype=bool)
        last = max(np.flatnonzero(labels >= 0))
        for number, ((x0, y0, x1, y1), label) in enumerate(zip(boxes.astype(int), labels, strict=True)):
            if label < 0:
                assert (x0, y0, x1, y1) == (0, 0, 0, 0)
                continue
            own = mask[y0:y1, x0:x1] == label + 1
            covered[y0:y1, x0:x1] |= own
            if number == last:  # no later digit lies on its edges
                assert own[0].any() and own[-1].any() and own[:, 0].any() and own[:, -1].any()  # noqa: PT018
        assert not (mask > 0)[~covered].any()


def test_scenes_have_one_to_four_digits_of_all_sizes(scenes: dict[str, np.ndarray]) -> None:
    counts = (scenes["labels"] >= 0).sum(1)
    assert set(counts.tolist()) == {1, 2, 3, 4}
    boxes = scenes["boxes"].reshape(-1, 4)[scenes["labels"].ravel() >= 0]
    sides = (boxes[:, 2:] - boxes[:, :2]).max(1)
    assert sides.min() < 14
    assert sides.max() > 22
    assert boxes.min() >= 0
    assert boxes.max() <= 64


def test_scenes_are_the_same_for_a_seed_and_others_for_another(composition: ModuleType) -> None:
    train, held_out = composition.split_originals()
    assert not set(train.sources) & set(held_out.sources)
    first, again, other = (composition.compose(train, 5, seed)["pixels"] for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_what_jobs_digits_holds_out_is_held_out_here(composition: ModuleType) -> None:
    spec = importlib.util.spec_from_file_location("digits_for_scenes", FOLDER.parent / "digits" / "recipe.py")
    assert spec is not None
    assert spec.loader is not None
    digits = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = digits
    spec.loader.exec_module(digits)
    assert set(composition.split_originals()[1].sources) == set(digits.split_originals()[1].sources)


def test_scenes_are_made_once(composition: ModuleType, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, held_out = composition.split_originals()
    first = composition.cached_scenes(train, 6, 0)

    def no_more(*_: object) -> None:
        raise AssertionError("composed again")

    monkeypatch.setattr(composition, "compose", no_more)
    assert composition.cached_scenes(train, 6, 0)[:] == first[:]
    for other in ((train, 7, 0), (train, 6, 1), (held_out, 6, 0)):
        with pytest.raises(AssertionError, match="composed again"):
            composition.cached_scenes(*other)
    assert [path.suffix for path in cache.iterdir() if path.is_dir()] == [""]
    with pytest.raises(ValueError, match=r"number of scenes: 0\. Must be at least 1"):
        composition.cached_scenes(train, 0, 0)


def cells_by_hand() -> list[tuple[float, float, int]]:
    return [
        (stride * (column + 0.5), stride * (row + 0.5), stride)
        for stride in (4, 8, 16)
        for row in range(64 // stride)
        for column in range(64 // stride)
    ]


def owner_by_hand(cell: tuple[float, float, int], boxes: np.ndarray, labels: np.ndarray) -> int:
    x, y, stride = cell
    best, smallest = -1, np.inf
    for number, ((x0, y0, x1, y1), label) in enumerate(zip(boxes, labels, strict=True)):
        if label < 0:
            continue
        longest = max(x1 - x0, y1 - y0)
        level = 4 if longest <= 14 else 8 if longest <= 22 else 16
        near = max(abs((x0 + x1) / 2 - x), abs((y0 + y1) / 2 - y)) < 0.75 * stride
        if level == stride and near and (x1 - x0) * (y1 - y0) < smallest:
            best, smallest = number, (x1 - x0) * (y1 - y0)
    return best


def test_the_losses_are_their_equations_image_by_image(recipe: ModuleType, scenes: dict[str, np.ndarray]) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 336, 10, generator=generator, dtype=torch.float64)
    encoded = torch.randn(4, 336, 4, generator=generator, dtype=torch.float64)
    boxes, labels = scenes["boxes"].reshape(-1, 4, 4)[:4].astype(np.float64), scenes["labels"][:4]
    classes, regression = [], []
    for i in range(4):
        focal = distance = 0.0
        num_positive = 0
        for number, cell in enumerate(cells_by_hand()):
            owner = owner_by_hand(cell, boxes[i], labels[i])
            for k in range(10):
                p = 1 / (1 + np.exp(-float(logits[i, number, k])))
                if owner >= 0 and labels[i, owner] == k:
                    focal -= 0.25 * (1 - p) ** 2 * np.log(p)
                else:
                    focal -= 0.75 * p**2 * np.log(1 - p)
            if owner >= 0:
                num_positive += 1
                x, y, stride = cell
                x0, y0, x1, y1 = boxes[i, owner]
                middle = ((x0 + x1) / 2 - x) / stride, ((y0 + y1) / 2 - y) / stride
                wanted = np.array([*middle, np.log((x1 - x0) / stride), np.log((y1 - y0) / stride)])
                away = np.abs(encoded[i, number].numpy() - wanted)
                distance += np.where(away < 0.1, away**2 / 0.2, away - 0.05).sum()
        assert num_positive >= (labels[i] >= 0).sum()  # every object has a cell of its own
        classes.append(focal / num_positive)
        regression.append(distance / num_positive)
    got = recipe.detection_losses(logits, encoded, torch.from_numpy(boxes), torch.from_numpy(labels))
    assert [float(value) for value in got] == pytest.approx([np.mean(classes), np.mean(regression)], rel=1e-9)


def test_an_image_without_objects_is_all_background(recipe: ModuleType) -> None:
    logits, encoded = torch.zeros(1, 336, 10), torch.ones(1, 336, 4, requires_grad=True)
    classes, regression = recipe.detection_losses(
        logits, encoded, torch.zeros(1, 4, 4), torch.full((1, 4), -1, dtype=torch.int64)
    )
    assert float(classes) == pytest.approx(3360 * 0.75 * 0.25 * np.log(2), rel=1e-5)
    assert float(regression.detach()) == 0.0
    regression.backward()
    assert float(encoded.grad.abs().sum()) == 0.0


def test_boxes_survive_their_code(recipe: ModuleType) -> None:
    low = torch.rand(2, 336, 2, generator=torch.Generator().manual_seed(0)) * 40
    boxes = torch.cat([low, low + 5 + low.flip(-1) / 3], -1)
    torch.testing.assert_close(recipe.decode(recipe.encode(boxes)), boxes, rtol=1e-4, atol=1e-3)


def iou(a: Any, b: Any) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def test_the_best_boxes_are_those_that_no_better_one_covers(recipe: ModuleType) -> None:
    generator = torch.Generator().manual_seed(1)
    logits, encoded = torch.randn(2, 336, 10, generator=generator), torch.zeros(2, 336, 4)
    encoded[..., 2:] = 2.0  # sides of 7.4 strides: neighbors cover each other
    logits[..., 2:] -= 20.0
    boxes, scores, labels = recipe.best_boxes(logits, encoded, 40)
    decoded = recipe.decode(encoded)
    num_kept = []
    for i in range(2):
        order = sorted(((float(s), n) for n, s in enumerate(logits[i].flatten().sigmoid())), reverse=True)[:40]
        kept: list[int] = []
        for _, place in order:
            cell, label = divmod(place, 10)
            if all(
                label != other % 10 or iou(decoded[i, cell].tolist(), decoded[i, other // 10].tolist()) <= 0.5
                for other in kept
            ):
                kept.append(place)
        found = [
            (int(label), *map(float, box)) for label, box, s in zip(labels[i], boxes[i], scores[i], strict=True) if s
        ]
        assert found == [(place % 10, *map(float, decoded[i, place // 10])) for place in kept]
        num_kept.append(len(kept))
    assert max(num_kept) < 40


def prediction(seed: int, num_images: int) -> dict[str, Tensor]:
    """Boxes of three objects of each image, moved about, some of a wrong class."""
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(num_images, 4, 2, generator=generator) * 40
    true_boxes = torch.cat([low, low + 10 + 10 * torch.rand(num_images, 4, 2, generator=generator)], -1)
    true_labels = torch.randint(0, 3, (num_images, 4), generator=generator)
    true_labels[:, 3] = -1
    return {
        "true_boxes": true_boxes,
        "true_labels": true_labels,
        "boxes": true_boxes + 2 * torch.randn(num_images, 4, 4, generator=generator),
        "labels": torch.where(
            torch.rand(num_images, 4, generator=generator) < 0.8, true_labels, (true_labels + 1) % 3
        ).clamp(min=0),
        "scores": torch.rand(num_images, 4, generator=generator),
        "loss": torch.tensor(0.0),
    }


def precision_by_hand(p: dict[str, Tensor], label: int, threshold: float) -> float:
    """COCO's average precision of one class: 101 points of the precision that falls with the recall."""
    num_true = int((p["true_labels"] == label).sum())
    found = [
        (float(p["scores"][i, j]), i, p["boxes"][i, j].tolist())
        for i in range(len(p["labels"]))
        for j in range(4)
        if p["labels"][i, j] == label
    ]
    taken: set[tuple[int, int]] = set()
    hits = []
    for _, i, box in sorted(found, reverse=True):
        rivals = [
            (iou(box, p["true_boxes"][i, j].tolist()), j)
            for j in range(4)
            if p["true_labels"][i, j] == label and (i, j) not in taken
        ]
        best, j = max(rivals, default=(0.0, -1))
        hits.append(best >= threshold)
        if hits[-1]:
            taken.add((i, j))
    right = np.cumsum(hits)
    recall, precision = right / num_true, right / np.arange(1, len(hits) + 1)
    return float(np.mean([max(precision[recall >= r - 1e-12], default=0.0) for r in np.linspace(0, 1, 101)]))


def test_average_precision_is_coco_s(recipe: ModuleType) -> None:
    p = prediction(0, 30)
    by_threshold = [
        np.mean([precision_by_hand(p, label, threshold) for label in range(3)])
        for threshold in np.linspace(0.5, 0.95, 10)
    ]
    got = recipe.average_precision([p])
    assert got["map_50"] == pytest.approx(by_threshold[0], abs=1e-6)
    assert got["map"] == pytest.approx(np.mean(by_threshold), abs=1e-6)
    assert 0.2 < got["map_50"] < 0.95


def test_what_is_right_scores_one_and_nothing_scores_nothing(recipe: ModuleType) -> None:
    p = prediction(0, 10)
    perfect = {**p, "boxes": p["true_boxes"], "labels": p["true_labels"].clamp(min=0)}
    perfect["scores"] = (p["true_labels"] >= 0).float()
    assert recipe.average_precision([perfect]) == {"map": 1.0, "map_50": 1.0}
    nothing = {**p, "scores": torch.zeros(10, 4)}
    assert recipe.average_precision([nothing]) == {"map": 0.0, "map_50": 0.0}


@pytest.mark.parametrize("kind", ["Detector", "Segmenter"])
def test_metrics_do_not_depend_on_the_batches(recipe: ModuleType, scenes: dict[str, np.ndarray], kind: str) -> None:
    job = getattr(recipe, kind)(width=4, channels=8)
    torch.manual_seed(0)
    model, batch = job.build_model().eval(), batch_of(scenes)
    with torch.no_grad():
        predictions = [
            [job.predict(model, {k: v[i : i + size] for k, v in batch.items()}) for i in range(0, 40, size)]
            for size in (40, 7)
        ]
    whole, cut = (job.evaluate_all(batches) for batches in predictions)
    assert whole == pytest.approx(cut, rel=1e-5)
    assert whole["loss"] == pytest.approx(float(job.loss(model, batch)[0].detach()), rel=1e-5)


def test_mean_iou_is_that_of_the_pixels(recipe: ModuleType, scenes: dict[str, np.ndarray]) -> None:
    job = recipe.Segmenter(width=4, channels=8)
    torch.manual_seed(0)
    model, batch = job.build_model().eval(), batch_of(scenes)
    with torch.no_grad():
        found = model(recipe.images(batch)).argmax(1).numpy()
        got = job.evaluate_all([job.predict(model, batch)])["mean_iou"]
    truth = scenes["mask"].reshape(-1, 64, 64)
    ious = []
    for k in range(11):
        union = ((truth == k) | (found == k)).sum()
        if union:
            ious.append(((truth == k) & (found == k)).sum() / union)
    assert got == pytest.approx(np.mean(ious))


@pytest.mark.parametrize("kind", ["Detector", "Segmenter"])
def test_every_parameter_is_in_one_of_three_modules(recipe: ModuleType, kind: str) -> None:
    job = getattr(recipe, kind)(width=4, channels=8)
    model = job.build_model()
    groups = job.parameter_modules(model)
    assert list(groups) == ["backbone", "fpn", "head"]
    for name, _ in model.named_parameters():
        assert sum(name.startswith(prefix) for prefixes in groups.values() for prefix in prefixes) == 1
    for prefixes in groups.values():
        assert any(name.startswith(prefix) for name, _ in model.named_parameters() for prefix in prefixes)


@pytest.mark.parametrize("kind", ["Detector", "Segmenter"])
def test_the_nets_learn(recipe: ModuleType, scenes: dict[str, np.ndarray], kind: str) -> None:
    job = getattr(recipe, kind)(width=8, channels=16)
    torch.manual_seed(0)
    model, batch = job.build_model(), batch_of(scenes)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    losses = []
    for _ in range(40):
        loss, _ = job.loss(model, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
