"""Two views of one thing, told from those of all others: halves of digits, or images with captions.

`Pairs` embeds the upper and the lower half of scikit-learn's digits; 500 of the 1,797 are held out. `Captions` takes
images and captions of any data set that `data.source: hugging_face` reads. Both losses look at all pairs of a batch at
once, over all workers, so a larger batch is more to be told from, not only less noise.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import datasets
import numpy as np
import pyarrow as pa
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional

from orchestrator.losses import embed_in_chunks, sigmoid_contrastive, softmax_contrastive

NUM_HELD_OUT = 500
NUM_VALIDATION = 297
SPLIT_SEED = 0
HALF = 32
"""Pixels of half a digit: four rows of eight."""
PADDING = 256
"""Stands in a caption's place where it has ended; the others are byte values."""
Batch = dict[str, Tensor]
KINDS = ("sigmoid", "softmax")


@dataclass(kw_only=True)
class _Contrastive:
    """What both recipes share.

    Args:
        kind: `sigmoid` (SigLIP) or `softmax` (CLIP).
        width: Of the hidden layers.
        embedding: Width of the embeddings.
        scale: First value of the inverse temperature; it is learned.
        bias: First value of the sigmoid's bias; it is learned, and the softmax has none.
        chunk_size: Pairs whose activations are held at a time; None is all of a worker's share.

    Raises:
        ValueError: If the kind is unknown.
    """

    couples_samples: ClassVar[bool] = True

    kind: str = "sigmoid"
    width: int = 128
    embedding: int = 32
    scale: float = 10.0
    bias: float = -10.0
    chunk_size: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"Invalid kind value: {self.kind}. Must be one of {', '.join(KINDS)}.")

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the contrastive loss in nats, and the inverse temperature (and bias) that were used."""
        x, y, *learned = embed_in_chunks(model, (batch["first"], batch["second"]), self.chunk_size)
        contrastive = sigmoid_contrastive if self.kind == "sigmoid" else softmax_contrastive
        return contrastive(x, y, *learned), dict(zip(("scale", "bias"), (t.detach() for t in learned), strict=False))

    def predict(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the embeddings of both views."""
        x, y, *_ = model(batch["first"], batch["second"])
        return x, y

    def evaluate_all(self, predictions: Sequence[tuple[Tensor, Tensor]]) -> dict[str, float]:
        """Return `recall_at_1`, how often a view's nearest other view among all held-out ones is its own."""
        x, y = (torch.cat(views).float() for views in zip(*predictions, strict=True))
        similarity, own = x @ y.t(), torch.arange(len(x))
        told = [(matrix.argmax(1) == own).float().mean() for matrix in (similarity, similarity.t())]
        return {"recall_at_1": float(sum(told)) / 2, "recall_forward": float(told[0]), "recall_back": float(told[1])}

    def _towers(self, first: nn.Module, second: nn.Module) -> nn.Module:
        return Towers(first, second, self.scale, self.bias if self.kind == "sigmoid" else None)


@dataclass(kw_only=True)
class Pairs(_Contrastive):
    """The upper halves of digits and the lower halves that belong to them.

    Args:
        validation: Whether 297 of the training pairs take the place of the held-out ones, and are not trained on.
    """

    validation: bool = False

    def build_model(self) -> nn.Module:
        """Return two nets of three layers: halves `(batch, 32)` to embeddings `(batch, embedding)`."""
        return self._towers(*(_perceptron(HALF, self.width, self.embedding) for _ in range(2)))

    def build_datasets(self) -> tuple[datasets.Dataset, datasets.Dataset]:
        """Return training and held-out pairs: columns `first` and `second`, as tensors."""
        pixels, labels = load_digits(return_X_y=True)
        train, held_out = _split(np.arange(len(labels)), labels, NUM_HELD_OUT)
        if self.validation:
            train, held_out = _split(train, labels[train], NUM_VALIDATION)
        return _as_dataset(pixels[train]), _as_dataset(pixels[held_out])


@dataclass(kw_only=True)
class Captions(_Contrastive):
    """Images and their captions, from a folder or from files, through `data.source: {name: hugging_face, ...}`.

    Args:
        image_column: Where the images are, as the `datasets` library decodes them.
        text_column: Where the captions are.
        image_size: Side in pixels that images are brought to.
        length: Bytes of a caption that are read.
    """

    image_column: str = "image"
    text_column: str = "text"
    image_size: int = 32
    length: int = 64

    def build_model(self) -> nn.Module:
        """Return a convolutional net for images `(batch, 3, side, side)`, a bag of bytes for captions."""
        image = nn.Sequential(
            nn.Conv2d(3, self.width, 3, stride=2, padding=1),
            nn.GroupNorm(1, self.width),
            nn.GELU(),
            nn.Conv2d(self.width, self.width, 3, stride=2, padding=1),
            nn.GELU(),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            _perceptron(16 * self.width, self.width, self.embedding),
        )
        text = nn.Sequential(
            nn.EmbeddingBag(PADDING + 1, self.width, padding_idx=PADDING),
            _perceptron(self.width, self.width, self.embedding),
        )
        return self._towers(image, text)

    def collate(self, samples: Sequence[dict[str, Any]]) -> Batch:
        """Return images `(batch, 3, side, side)` in [-1, 1] and captions `(batch, length)` as bytes."""
        side = (self.image_size, self.image_size)
        pixels = [np.asarray(sample[self.image_column].convert("RGB").resize(side)) for sample in samples]
        captions = torch.full((len(samples), self.length), PADDING)
        for row, sample in zip(captions, samples, strict=True):
            text = sample[self.text_column].encode()[: self.length]
            row[: len(text)] = torch.frombuffer(bytearray(text), dtype=torch.uint8) if text else PADDING
        first = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1.0
        return {"first": first, "second": captions}


class Towers(nn.Module):
    """Two nets side by side, and what a loss learns of its own.

    Args:
        first: Of one view.
        second: Of the other.
        scale: First value of the inverse temperature.
        bias: Of the sigmoid loss; None where there is none.
    """

    def __init__(self, first: nn.Module, second: nn.Module, scale: float, bias: float | None) -> None:
        super().__init__()
        self.first, self.second = first, second
        # One element each: FSDP2 divides no scalars.
        self.log_scale = nn.Parameter(torch.tensor([math.log(scale)]))
        self.bias = None if bias is None else nn.Parameter(torch.tensor([bias]))

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, ...]:
        """Return both views' embeddings `(batch, embedding)` of length 1, the inverse temperature, and the bias."""
        x, y = functional.normalize(self.first(first)), functional.normalize(self.second(second))
        # Handed out by the model, as an engine that divides it has no weights outside of its forward.
        learned = (self.log_scale.exp().squeeze(),)
        return x, y, *learned, *(() if self.bias is None else (self.bias.squeeze(),))


def _perceptron(num_inputs: int, width: int, num_outputs: int) -> nn.Module:
    return nn.Sequential(
        *(nn.Linear(num_inputs, width), nn.LayerNorm(width), nn.GELU()),
        *(nn.Linear(width, width), nn.LayerNorm(width), nn.GELU()),
        nn.Linear(width, num_outputs),
    )


def _split(places: Any, labels: Any, num_held_out: int) -> Any:
    """Return places without, and only, `num_held_out` of them; the same every time, stratified by class."""
    return train_test_split(places, test_size=num_held_out, random_state=SPLIT_SEED, stratify=labels)


def _as_dataset(pixels: Any) -> datasets.Dataset:
    halves = {"first": pixels[:, :HALF], "second": pixels[:, HALF:]}
    columns = {
        name: pa.FixedSizeListArray.from_arrays(pa.array((half / 8 - 1).astype(np.float32).reshape(-1)), HALF)
        for name, half in halves.items()
    }
    features = datasets.Features({name: datasets.Sequence(datasets.Value("float32"), length=HALF) for name in columns})
    return datasets.Dataset.from_dict(columns, features=features).with_format("torch")
