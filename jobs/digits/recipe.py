"""Scikit-learn's handwritten digits, enlarged to a training set that is worth large batches.

The 1,797 real 8x8 images are split by source image before anything else: 360 originals are held out for
evaluation and no transformed copy of them is ever trained on. The other 1,437 are kept and expanded with random
affine and elastic transforms. The expansion is made once per set of arguments and cached through `datasets`.
"""

import hashlib
import os
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
from filelock import FileLock
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional

NUM_CLASSES = 10
NUM_HELD_OUT = 360
NUM_VALIDATION = 287
IMAGE_SIZE = 8
# The held-out images are the same for every seed of the recipe, so that accuracies can be compared.
SPLIT_SEED = 0
# Part of the cache key: raise it when `transform` makes other images from the same numbers.
CACHE_VERSION = 1


@dataclass(frozen=True, slots=True)
class Distortion:
    """How far a transformed image may stray from its original; every range is symmetric around no change."""

    max_rotation_degrees: float = 15.0
    max_log_scale: float = 0.15  # natural logarithm of the factor, drawn for rows and columns on their own
    max_shear: float = 0.2  # columns per row
    max_shift_pixels: float = 0.8
    elastic_rms_pixels: float = 0.3
    elastic_smoothing_pixels: float = 2.0  # standard deviation of the Gaussian over the displacement field


DISTORTION = Distortion()


class Digits:
    """Classification of 8x8 digits with a small convolutional net that has batch norm.

    Args:
        hidden: Channels of the first convolution; the later ones have twice as many.
        num_train_images: Size of the training set: the 1,437 training originals (at least) and their transforms.
        seed: Seed of the random transforms. It changes neither the held-out images nor the initial weights.
        validation: Whether 287 of the training originals take the place of the held-out ones, and are not trained on:
            for choosing a learning rate without a look at the images that the result is reported on.

    Raises:
        ValueError: If `hidden` is not positive.
    """

    def __init__(
        self, hidden: int = 32, num_train_images: int = 60_000, seed: int = 0, validation: bool = False
    ) -> None:
        if hidden < 1:
            raise ValueError(f"Invalid hidden value: {hidden}. Must be at least 1.")
        self.hidden = hidden
        self.num_train_images = num_train_images
        self.seed = seed
        self.validation = validation

    def build_model(self) -> nn.Module:
        """Return the net: images `(batch, 1, 8, 8)` in [-1, 1] to logits `(batch, 10)`."""
        width = self.hidden
        return nn.Sequential(
            *_convolution(1, width, stride=1),
            *_convolution(width, 2 * width, stride=2),
            *_convolution(2 * width, 2 * width, stride=1),
            nn.Flatten(),
            nn.Linear(2 * width * (IMAGE_SIZE // 2) ** 2, NUM_CLASSES),
        )

    def build_datasets(self) -> tuple[datasets.Dataset, datasets.Dataset]:
        """Return the training images and the held-out originals: columns `pixels` and `label`, as tensors."""
        train_originals, held_out = split_originals()
        if self.validation:
            train_originals, held_out = split(train_originals, NUM_VALIDATION)
        train = cached_expansion(train_originals, self.num_train_images, self.seed)
        columns = ["pixels", "label"]
        return train.with_format("torch", columns), held_out.as_dataset().with_format("torch", columns)

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean cross-entropy in nats, and the accuracy on this batch as a metric."""
        images = batch["pixels"].view(-1, 1, IMAGE_SIZE, IMAGE_SIZE) / 127.5 - 1.0
        logits = model(images)
        accuracy = (logits.argmax(dim=1) == batch["label"]).float().mean()
        return functional.cross_entropy(logits, batch["label"]), {"accuracy": accuracy}

    def evaluate(self, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return mean `loss` (nats) and `accuracy` over the batch."""
        loss, metrics = self.loss(model, batch)
        return {"loss": loss, **metrics}


@dataclass(frozen=True, slots=True)
class Images:
    """Labelled images, and which original each was made from."""

    pixels: NDArray[np.uint8]  # grey levels, (num_images, 64)
    labels: NDArray[np.int64]
    sources: NDArray[np.int64]  # index among scikit-learn's 1,797

    def at(self, places: NDArray[np.int64]) -> "Images":
        """Return those at the given places."""
        return Images(self.pixels[places], self.labels[places], self.sources[places])

    def as_dataset(self) -> datasets.Dataset:
        """Return them as columns `pixels`, `label` and `source`."""
        features = datasets.Features(
            pixels=datasets.Sequence(datasets.Value("uint8"), length=IMAGE_SIZE**2),
            label=datasets.Value("int64"),
            source=datasets.Value("int64"),
        )
        # As an Arrow array: `datasets` converts a numpy matrix row by row, which takes longer than making the images.
        rows = pa.FixedSizeListArray.from_arrays(pa.array(self.pixels.reshape(-1)), IMAGE_SIZE**2)
        columns = {"pixels": rows, "label": self.labels, "source": self.sources}
        return datasets.Dataset.from_dict(columns, features=features)


def split_originals() -> tuple[Images, Images]:
    """Return the 1,437 training originals and the 360 held-out ones, stratified by class."""
    pixels, labels = load_digits(return_X_y=True)
    grey_levels = np.round(pixels * (255 / 16)).astype(np.uint8)
    return split(Images(grey_levels, labels, np.arange(len(labels))), NUM_HELD_OUT)


def split(images: Images, num_held_out: int) -> tuple[Images, Images]:
    """Return the images without, and only, `num_held_out` of them; the same ones every time, stratified by class."""
    places = np.arange(len(images.labels))
    kept, held_out = train_test_split(places, test_size=num_held_out, random_state=SPLIT_SEED, stratify=images.labels)
    return images.at(kept), images.at(held_out)


def cached_expansion(originals: Images, num_images: int, seed: int) -> datasets.Dataset:
    """Return the originals followed by random transforms of them, made once and then read from the cache.

    The cache lies in the folder that `HF_DATASETS_CACHE` or `HF_HOME` name. Processes that ask at the same time
    wait for the first one; a process that dies while it writes leaves nothing that could be taken for a cache.

    Args:
        originals: Images to expand, as from `split_originals`.
        num_images: Images to return, originals included.
        seed: Seed of the transforms.

    Raises:
        ValueError: If `num_images` is less than the number of originals.
    """
    if num_images < len(originals.labels):
        raise ValueError(f"Invalid num_train_images value: {num_images}. Must be at least {len(originals.labels)}.")
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "large-batch-digits"
    # The key covers the originals themselves: another split must never find images made from its held-out ones.
    key = hashlib.sha256(repr((CACHE_VERSION, DISTORTION, num_images, seed)).encode())
    key.update(originals.pixels.tobytes())
    target = folder / key.hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if not target.exists():
            _save_atomically(expand(originals, num_images, seed).as_dataset(), target)
    return datasets.load_from_disk(str(target))


def expand(originals: Images, num_images: int, seed: int) -> Images:
    """Return `num_images` images: the originals themselves, then transforms of them in turn."""
    num_originals = len(originals.labels)
    chosen = np.arange(num_images) % num_originals
    transformed = transform(originals.pixels, chosen[num_originals:], np.random.default_rng(seed))
    pixels = np.concatenate([originals.pixels, transformed])
    return Images(pixels, originals.labels[chosen], originals.sources[chosen])


def transform(
    pixels: NDArray[np.uint8], chosen: NDArray[np.int64], generator: np.random.Generator
) -> NDArray[np.uint8]:
    """Return a random affine and elastic transform of every chosen image.

    Args:
        pixels: All images, `(num_originals, 64)`.
        chosen: For each image to make, the index of its original, `(num_images,)`.
        generator: Source of all randomness.

    Returns:
        Images `(num_images, 64)`.
    """
    num_images = len(chosen)
    center = (IMAGE_SIZE - 1) / 2
    offsets = np.indices((IMAGE_SIZE, IMAGE_SIZE)) - center  # (2, 8, 8): rows and columns from the center
    shift = generator.uniform(-1, 1, (num_images, 2, 1, 1)) * DISTORTION.max_shift_pixels
    rows_columns = np.einsum("nij,jhw->nihw", _affine_matrices(num_images, generator), offsets)
    rows_columns += center + shift + _elastic_fields(num_images, generator)

    # One call for all images: the first coordinate picks the original and is always a whole number,
    # so that the bilinear interpolation never mixes two originals.
    which = np.broadcast_to(chosen[:, None, None], (num_images, IMAGE_SIZE, IMAGE_SIZE))
    coordinates = np.stack([which, rows_columns[:, 0], rows_columns[:, 1]])
    stack = pixels.reshape(-1, IMAGE_SIZE, IMAGE_SIZE).astype(np.float32)
    grey_levels: NDArray[np.float32] = map_coordinates(stack, coordinates, order=1, cval=0.0)
    return np.round(grey_levels).astype(np.uint8).reshape(num_images, -1)


def _affine_matrices(num_images: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """Return random rotation x shear x scale matrices, `(num_images, 2, 2)`, acting on (row, column)."""
    angle = generator.uniform(-1, 1, num_images) * np.deg2rad(DISTORTION.max_rotation_degrees)
    shear = generator.uniform(-1, 1, num_images) * DISTORTION.max_shear
    scale = np.exp(generator.uniform(-1, 1, (num_images, 1, 2)) * DISTORTION.max_log_scale)
    cos, sin = np.cos(angle), np.sin(angle)
    rotation = np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2)
    sheared = np.tile(np.eye(2), (num_images, 1, 1))
    sheared[:, 1, 0] = shear
    product: NDArray[np.float64] = rotation @ sheared * scale
    return product


def _elastic_fields(num_images: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """Return smooth random displacements in pixels, `(num_images, 2, 8, 8)`."""
    noise = generator.standard_normal((num_images, 2, IMAGE_SIZE, IMAGE_SIZE))
    smooth = gaussian_filter(noise, DISTORTION.elastic_smoothing_pixels, mode="wrap", axes=(2, 3))
    fields: NDArray[np.float64] = smooth * (DISTORTION.elastic_rms_pixels / np.sqrt(np.mean(smooth**2)))
    return fields


def _convolution(num_inputs: int, num_outputs: int, stride: int) -> list[nn.Module]:
    """Return a 3x3 convolution with batch norm and ReLU."""
    convolution = nn.Conv2d(num_inputs, num_outputs, kernel_size=3, stride=stride, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(num_outputs), nn.ReLU()]


def _save_atomically(dataset: datasets.Dataset, target: Path) -> None:
    """Save under a temporary name beside the target and rename, so that the target is whole or absent."""
    temporary = target.with_name(f"{target.name}.{uuid.uuid4().hex}.partial")
    try:
        dataset.save_to_disk(str(temporary))
        os.rename(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
