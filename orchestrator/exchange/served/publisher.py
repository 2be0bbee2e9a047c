"""How a shard's weights reach the workers: put down once for each version, what never changes once for all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray
from torch import Tensor, nn

from orchestrator.core.served import Handle, Publication, ShardPort


class Publisher:
    """Publishes one model's versions; all shards of the model publish together.

    Args:
        port: of this shard.
        model: which of the models that share the workers, from 0.
        module: the model itself.
    """

    def __init__(self, port: ShardPort, model: int, module: nn.Module) -> None:
        self._port = port
        self._model = model
        self._module = module
        self._unchanging: Handle = None

    def publish(self, version: int, flat: Tensor, buffers: Mapping[str, NDArray[Any]]) -> tuple[Publication, Handle]:
        """Put a version down.

        Args:
            version: of the weights.
            flat: this shard's, [elements].
            buffers: those that have changed since the first version.

        Returns:
            What workers are to be told, on the shard of rank 0, and the handle of this shard's array.
        """
        if self._unchanging is None:
            rest = {name: p for name, p in self._module.named_parameters() if not p.requires_grad}
            self._unchanging = self._port.publish(arrays_of({**rest, **dict(self._module.named_buffers())}))
        handle = self._port.publish(flat.detach().cpu().numpy())
        publication = Publication(
            version=version,
            flats=self._port.gather_handles((self._model, version), handle),
            unchanging=self._unchanging,
            buffers=dict(buffers),
        )
        return publication, handle


def arrays_of(tensors: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
    """Copies of tensors in host memory, by name."""
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in tensors.items()}
