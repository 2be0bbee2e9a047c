"""Losses over all samples of a batch together, wherever their workers are: for recipes to call."""

from orchestrator.losses.chunked import embed_in_chunks
from orchestrator.losses.sigmoid import sigmoid_contrastive
from orchestrator.losses.softmax import softmax_contrastive

__all__ = ["embed_in_chunks", "sigmoid_contrastive", "softmax_contrastive"]
