"""A byte-level language model of Python's own standard library: real text that every installation has.

Whole files are held out for evaluation, chosen by a hash of their names, so that every machine with the same Python
chooses the same ones. Two versions of Python give two corpora: compare losses within one version.
"""

import hashlib
import math
import sysconfig
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn
from torch.nn import functional

NUM_BYTE_VALUES = 256
HELD_OUT_FRACTION = 0.05
# Tests and installed packages differ between installations; the other two hold tables that programs wrote.
EXCLUDED_FOLDERS = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idle_test", "encodings", "pydoc_data"}
)
# Written when the interpreter was built: the paths of that machine.
EXCLUDED_PREFIX = "_sysconfigdata"
# The separator between files; it does not occur in Python sources.
END_OF_FILE = b"\x00"


class Text:
    """Next-byte prediction with a small pre-norm transformer: no dropout, no batch norm.

    Args:
        width: Size of the residual stream; a multiple of `num_heads`.
        depth: Transformer blocks.
        num_heads: Attention heads per block.
        sequence_length: Bytes of a training sequence; a sample holds one more, the last target.
        max_length: Longest sequence that the model has positions for; None is `sequence_length`. The phases of a
            training share one model, so it must be that of the longest.
        max_bytes: At most this much text is read, evaluation included.
        num_evaluation_sequences: At most this many held-out sequences are evaluated, spread evenly over all of them.
        validation: Whether a twentieth of the training files takes the place of the held-out ones, and is not trained
            on: for choosing a learning rate without a look at the files that the result is reported on.

    Raises:
        ValueError: If `width` is not a multiple of `num_heads`, a size is not positive, or a sequence is longer than
            `max_length`.
    """

    def __init__(
        self,
        width: int = 96,
        depth: int = 4,
        num_heads: int = 4,
        sequence_length: int = 128,
        max_length: int | None = None,
        max_bytes: int = 10_000_000,
        num_evaluation_sequences: int = 256,
        validation: bool = False,
    ) -> None:
        sizes = {"width": width, "depth": depth, "num_heads": num_heads, "sequence_length": sequence_length}
        for name, size in {**sizes, "num_evaluation_sequences": num_evaluation_sequences}.items():
            if size < 1:
                raise ValueError(f"Invalid {name} value: {size}. Must be at least 1.")
        if width % num_heads:
            raise ValueError(f"Invalid width value: {width}. Must be a multiple of num_heads ({num_heads}).")
        if max_length is not None and max_length < sequence_length:
            raise ValueError(f"Invalid sequence_length value: {sequence_length}. Must be at most {max_length}.")
        self.width = width
        self.depth = depth
        self.num_heads = num_heads
        self.sequence_length = sequence_length
        self.max_length = max_length or sequence_length
        self.max_bytes = max_bytes
        self.num_evaluation_sequences = num_evaluation_sequences
        self.validation = validation

    def build_model(self) -> nn.Module:
        """Return the model: byte values `(batch, length)` to next-byte logits `(batch, length, 256)`."""
        return ByteTransformer(self.width, self.depth, self.num_heads, self.max_length)

    def build_datasets(self) -> tuple[datasets.Dataset, datasets.Dataset]:
        """Return training and evaluation sequences: column `bytes`, tensors `(sequence_length + 1,)`."""
        train_files, held_out_files = split_files(read_sources(stdlib_folder(), self.max_bytes))
        if self.validation:
            train_files, held_out_files = split_files(train_files)
        num_bytes = self.sequence_length + 1
        held_out = cut_into_sequences(list(held_out_files.values()), num_bytes)
        num_kept = min(self.num_evaluation_sequences, len(held_out))
        spread = [index * len(held_out) // num_kept for index in range(num_kept)]
        return cut_into_sequences(list(train_files.values()), num_bytes), held_out.select(spread)

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean cross-entropy in nats per byte, and `bits_per_byte` as a metric."""
        logits = model(batch["bytes"][:, :-1])
        loss = functional.cross_entropy(logits.flatten(0, 1), batch["bytes"][:, 1:].flatten())
        return loss, {"bits_per_byte": loss.detach() / math.log(2)}

    def evaluate(self, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return mean `loss` (nats per byte) and `bits_per_byte` over the batch."""
        loss, metrics = self.loss(model, batch)
        return {"loss": loss, **metrics}


class ByteTransformer(nn.Module):
    """A decoder-only transformer over bytes with learned positions and untied output weights.

    Args:
        width: Size of the residual stream.
        depth: Number of blocks.
        num_heads: Attention heads per block.
        max_length: Longest input, in bytes.
    """

    def __init__(self, width: int, depth: int, num_heads: int, max_length: int) -> None:
        super().__init__()
        self.byte_embedding = nn.Embedding(NUM_BYTE_VALUES, width)
        self.position_embedding = nn.Embedding(max_length, width)
        self.blocks = nn.ModuleList(Block(width, num_heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, NUM_BYTE_VALUES, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:
                # Outputs added to the residual stream start smaller, so that its variance does not grow with depth.
                shrink = math.sqrt(2 * depth) if name.endswith("_out.weight") else 1.0
                nn.init.normal_(parameter, std=0.02 / shrink)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return next-byte logits `(batch, length, 256)` for byte values `(batch, length)`."""
        positions = torch.arange(inputs.shape[1], device=inputs.device)
        stream = self.byte_embedding(inputs) + self.position_embedding(positions)
        for block in self.blocks:
            stream = block(stream)
        logits: Tensor = self.head(self.norm(stream))
        return logits


class Block(nn.Module):
    """Causal self-attention and a feed-forward layer, each behind its own layer norm.

    Args:
        width: Size of the residual stream.
        num_heads: Attention heads.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm = nn.LayerNorm(width)
        self.attention_in = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.feed_forward_in = nn.Linear(width, 4 * width)
        self.feed_forward_out = nn.Linear(4 * width, width)

    def forward(self, stream: Tensor) -> Tensor:
        """Return the stream `(batch, length, width)` with both layers' outputs added."""
        stream = stream + self.attention_out(self._attend(self.attention_in(self.attention_norm(stream))))
        hidden = functional.gelu(self.feed_forward_in(self.feed_forward_norm(stream)))
        added: Tensor = stream + self.feed_forward_out(hidden)
        return added

    def _attend(self, query_key_value: Tensor) -> Tensor:
        heads = query_key_value.unflatten(-1, (3, self.num_heads, -1))  # (batch, length, 3, heads, width per head)
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return attended.transpose(1, 2).flatten(2)


def stdlib_folder() -> Path:
    """Return the folder of the running interpreter's standard library."""
    return Path(sysconfig.get_paths()["stdlib"])


def read_sources(folder: Path, max_bytes: int) -> dict[str, bytes]:
    """Return the text of Python files by relative name, in the order of their names.

    Args:
        folder: Where to look, subfolders included; `EXCLUDED_FOLDERS` are left out.
        max_bytes: Reading stops before the file that would exceed this total.

    Raises:
        ValueError: If not even one file fits into `max_bytes`.
    """
    paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*.py")}
    texts: dict[str, bytes] = {}
    num_bytes = 0
    for name in sorted(paths):
        if name.startswith(EXCLUDED_PREFIX) or EXCLUDED_FOLDERS.intersection(name.split("/")):
            continue
        text = paths[name].read_bytes()
        num_bytes += len(text)
        if num_bytes > max_bytes:
            break
        texts[name] = text
    if not texts:
        raise ValueError(f"Invalid max_bytes value: {max_bytes}. Must hold at least one Python file of {folder}.")
    return texts


def split_files(texts: dict[str, bytes]) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Return training and held-out texts: the last twentieth of the files (at least one) by the hash of their names."""
    ordered = sorted(texts, key=lambda name: hashlib.sha256(name.encode()).digest())
    num_held_out = max(1, round(HELD_OUT_FRACTION * len(ordered)))
    held_out = set(ordered[-num_held_out:])
    return (
        {name: text for name, text in texts.items() if name not in held_out},
        {name: text for name, text in texts.items() if name in held_out},
    )


def cut_into_sequences(texts: list[bytes], num_bytes: int) -> datasets.Dataset:
    """Return the joined texts as non-overlapping sequences of `num_bytes`; a shorter rest is dropped.

    Raises:
        ValueError: If the texts together are shorter than one sequence.
    """
    joined = np.frombuffer(END_OF_FILE.join(texts), dtype=np.uint8)
    num_sequences = len(joined) // num_bytes
    if num_sequences == 0:
        raise ValueError(f"{len(joined)} bytes of text are too few for sequences of {num_bytes}. Raise max_bytes.")
    rows = pa.FixedSizeListArray.from_arrays(pa.array(joined[: num_sequences * num_bytes]), num_bytes)
    features = datasets.Features(bytes=datasets.Sequence(datasets.Value("uint8"), length=num_bytes))
    return datasets.Dataset.from_dict({"bytes": rows}, features=features).with_format("torch")
