"""Composes scenes of scikit-learn's digits and keeps them in the cache of `datasets`."""

import hashlib
import os
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from filelock import FileLock
from numpy.typing import NDArray
from scipy.ndimage import zoom
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

CANVAS = 64
NUM_CLASSES = 10
MAX_OBJECTS = 4
NUM_HELD_OUT = 360
IMAGE_SIZE = 8
# That of jobs/digits: what is held out there is held out here.
SPLIT_SEED = 0
# Part of the cache key: raise it when `compose` makes other scenes from the same numbers.
CACHE_VERSION = 1


@dataclass(frozen=True, slots=True)
class Layout:
    """What a scene may look like."""

    min_side_pixels: int = 10
    max_side_pixels: int = 32
    max_overlap: float = 0.05  # of two boxes, as intersection over union
    num_tries: int = 10  # places tried for a digit before it is left out
    ink: float = 0.25  # grey level from which a pixel belongs to its digit
    noise: float = 0.08  # standard deviation of the background's grey levels


LAYOUT = Layout()


@dataclass(frozen=True, slots=True)
class Originals:
    """Labelled images of single digits, and which of scikit-learn's 1,797 each is."""

    pixels: NDArray[np.float64]  # grey levels from 0 to 1, (num_images, 8, 8)
    labels: NDArray[np.int64]
    sources: NDArray[np.int64]


def split_originals() -> tuple[Originals, Originals]:
    """Return the 1,437 training originals and the 360 held-out ones, stratified by class."""
    pixels, labels = load_digits(return_X_y=True)
    places = np.arange(len(labels))
    parts = train_test_split(places, test_size=NUM_HELD_OUT, random_state=SPLIT_SEED, stratify=labels)
    train, held_out = (
        Originals(pixels[part].reshape(-1, IMAGE_SIZE, IMAGE_SIZE) / 16, labels[part], part) for part in parts
    )
    return train, held_out


def compose(originals: Originals, num_scenes: int, seed: int) -> dict[str, NDArray[Any]]:
    """Return scenes: `pixels` and `mask`, `(num_scenes, 4096)`, `boxes`, `(num_scenes, 16)`, and `labels`.

    Boxes are (x0, y0, x1, y1) in pixels, tight around a digit's ink; where there are fewer than four objects they are
    0 and the labels -1. Where two digits overlap, a pixel belongs to the later one.
    """
    generator = np.random.default_rng(seed)
    grey = np.abs(generator.normal(0, LAYOUT.noise, (num_scenes, CANVAS, CANVAS)))
    mask = np.zeros(grey.shape, dtype=np.uint8)
    boxes = np.zeros((num_scenes, MAX_OBJECTS, 4), dtype=np.float32)
    labels = np.full((num_scenes, MAX_OBJECTS), -1, dtype=np.int64)
    for scene in range(num_scenes):
        for number in range(generator.integers(1, MAX_OBJECTS + 1)):
            which = generator.integers(len(originals.labels))
            side = int(generator.integers(LAYOUT.min_side_pixels, LAYOUT.max_side_pixels + 1))
            digit = zoom(originals.pixels[which], side / IMAGE_SIZE, order=1).clip(0, 1)
            corner = _free_place(digit, boxes[scene, :number], generator)
            if corner is not None:
                x, y = corner
                there = (scene, slice(y, y + side), slice(x, x + side))
                grey[there] = np.maximum(grey[there], digit)
                mask[there] = np.where(digit >= LAYOUT.ink, originals.labels[which] + 1, mask[there])
                boxes[scene, number] = _ink_box(digit) + np.array([x, y, x, y])
                labels[scene, number] = originals.labels[which]
    return {
        "pixels": np.round(255 * grey.clip(0, 1)).astype(np.uint8).reshape(num_scenes, -1),
        "mask": mask.reshape(num_scenes, -1),
        "boxes": boxes.reshape(num_scenes, -1),
        "labels": labels,
    }


def _ink_box(digit: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (x0, y0, x1, y1) of a digit's ink in its own image."""
    rows, columns = np.nonzero(digit >= LAYOUT.ink)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], dtype=np.float64)


def _free_place(
    digit: NDArray[np.float64], taken: NDArray[np.float32], generator: np.random.Generator
) -> tuple[int, int] | None:
    """Return the corner (x, y) of a place where a digit hardly overlaps the others; None where none was found."""
    box = _ink_box(digit)
    for _ in range(LAYOUT.num_tries):
        x, y = (int(corner) for corner in generator.integers(0, CANVAS - len(digit) + 1, 2))
        moved = box + np.array([x, y, x, y])
        shared = (np.minimum(moved[2:], taken[:, 2:]) - np.maximum(moved[:2], taken[:, :2])).clip(0).prod(1)
        union = (moved[2:] - moved[:2]).prod() + (taken[:, 2:] - taken[:, :2]).prod(1) - shared
        if not (shared > LAYOUT.max_overlap * union).any():
            return x, y
    return None


def cached_scenes(originals: Originals, num_scenes: int, seed: int) -> datasets.Dataset:
    """Return the scenes of `compose`, made once and then read from the cache.

    The cache lies in the folder that `HF_DATASETS_CACHE` or `HF_HOME` name. Processes that ask at the same time wait
    for the first one; a process that dies while it writes leaves nothing that could be taken for a cache.

    Raises:
        ValueError: If `num_scenes` is not positive.
    """
    if num_scenes < 1:
        raise ValueError(f"Invalid number of scenes: {num_scenes}. Must be at least 1.")
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "large-batch-scenes"
    # The key covers the originals themselves: another split must never find scenes made from its held-out ones.
    key = hashlib.sha256(repr((CACHE_VERSION, LAYOUT, num_scenes, seed)).encode())
    key.update(originals.pixels.tobytes())
    target = folder / key.hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if not target.exists():
            _save_atomically(_as_dataset(compose(originals, num_scenes, seed)), target)
    return datasets.load_from_disk(str(target))


def _as_dataset(columns: dict[str, NDArray[Any]]) -> datasets.Dataset:
    # As Arrow arrays: `datasets` converts a numpy matrix row by row, which takes longer than making the scenes.
    rows = {
        name: pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
        for name, values in columns.items()
    }
    features = datasets.Features(
        {
            name: datasets.Sequence(datasets.Value(str(values.dtype)), length=values.shape[1])
            for name, values in columns.items()
        }
    )
    return datasets.Dataset.from_dict(rows, features=features)


def _save_atomically(dataset: datasets.Dataset, target: Path) -> None:
    """Save under a temporary name beside the target and rename, so that the target is whole or absent."""
    temporary = target.with_name(f"{target.name}.{uuid.uuid4().hex}.partial")
    try:
        dataset.save_to_disk(str(temporary))
        os.rename(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
