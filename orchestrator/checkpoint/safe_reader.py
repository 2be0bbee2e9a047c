"""Reading torch.distributed.checkpoint without running foreign code.

torch keeps the table of contents of a checkpoint (``.metadata``) as a pickle, and a pickle may call anything. The
reader here resolves only the classes that such a table consists of, and refuses entries that are not tensors
(torch would unpickle those freely). Tensors themselves are read by torch with ``weights_only=True``.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata

from orchestrator.core.errors import CheckpointError

_ALLOWED = {
    ("pathlib", "PosixPath"),
    ("pathlib", "WindowsPath"),
    ("torch", "Size"),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.distributed.checkpoint.metadata", "ChunkStorageMetadata"),
    ("torch.distributed.checkpoint.metadata", "Metadata"),
    ("torch.distributed.checkpoint.metadata", "MetadataIndex"),
    ("torch.distributed.checkpoint.metadata", "StorageMeta"),
    ("torch.distributed.checkpoint.metadata", "TensorProperties"),
    ("torch.distributed.checkpoint.metadata", "TensorStorageMetadata"),
    ("torch.distributed.checkpoint.metadata", "_MEM_FORMAT_ENCODING"),
    ("torch.serialization", "_get_layout"),
}


class _TableUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if (module, name) not in _ALLOWED and not is_dtype:
            raise CheckpointError(
                f"The checkpoint's .metadata names {module}.{name}, which no checkpoint of ours does."
            )
        return super().find_class(module, name)


def read_table(path: Path) -> Metadata:
    """The table of contents of one checkpoint folder.

    Raises:
        CheckpointError: where the table is damaged, names a foreign class, or holds anything but flat tensors.
    """
    try:
        table = _TableUnpickler(io.BytesIO((path / ".metadata").read_bytes())).load()
        if not isinstance(table, Metadata):
            raise CheckpointError(f"{path}: the table of contents is not one.")
        for name, entry in table.state_dict_metadata.items():
            if not (isinstance(entry, TensorStorageMetadata) and _is_flat(entry)):
                raise CheckpointError(f"{path}: entry {name!r} is not a flat tensor, which all of ours are.")
    except CheckpointError:
        raise
    except Exception as error:  # what a damaged pickle raises has no common kind
        raise CheckpointError(f"{path}: the table of contents cannot be read ({error}).") from error
    return table


def _is_flat(entry: TensorStorageMetadata) -> bool:
    runs = ((*chunk.offsets, *chunk.sizes) for chunk in entry.chunks)
    return (
        isinstance(entry.properties.dtype, torch.dtype)
        and all(isinstance(start, int) and isinstance(length, int) for start, length in runs)
        and len(entry.size) == 1
    )


class SafeReader(FileSystemReader):
    """torch's file reader with the table of contents read by ``read_table``."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """See the base class."""
        table = read_table(Path(self.path))
        table.storage_meta = table.storage_meta or StorageMeta()
        table.storage_meta.load_id = self.load_id
        return table
