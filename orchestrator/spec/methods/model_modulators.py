"""What may give a recipe's model other layers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from orchestrator.spec.methods.modulator import Modulator
from orchestrator.spec.section import (
    Patterns,
    PositiveInt,
)


class GhostNorm(Modulator):
    """Batch norms normalize the batch in small parts, each by itself (ghost batch norm, arXiv 1705.08741)."""

    changes = frozenset({"model"})
    name: Literal["ghost_norm"]
    size: PositiveInt
    """Most samples of a part; what is cut is one worker's micro-batch."""


class SyncBatchNorm(Modulator):
    """Batch norms normalize by the statistics of all workers' micro-batches together."""

    changes = frozenset({"model"})
    name: Literal["sync_batch_norm"]


class WeightStandardization(Modulator):
    """Convolutions compute with filters of mean 0 and variance 1 (arXiv 1903.10520)."""

    changes = frozenset({"model"})
    name: Literal["weight_standardization"]
    modules: Patterns | None = None
    """Convolutions, or modules that hold them, each by its class or by its dotted name with * for one part; null takes
    every convolution. Those that no normalization follows are better left out."""


class BatchChannelNorm(Modulator):
    """Batch norms are followed by a normalization over groups of channels (arXiv 1911.09738)."""

    changes = frozenset({"model"})
    name: Literal["batch_channel_norm"]
    groups: PositiveInt = 32
    """Groups of channels; must divide the channels of every batch norm."""
    estimate: Annotated[float, Field(gt=0, le=1)] | None = None
    """Rate at which running estimates follow each micro-batch and are normalized by in place of its own statistics, for
    micro-batches of one or two samples; null normalizes by the micro-batch's own."""
