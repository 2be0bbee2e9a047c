"""What a Ray Train worker runs: it hands over to the rank, which knows no Ray."""

from __future__ import annotations

import importlib
import socket
from typing import Any

import ray


def run_rank(config: dict[str, Any]) -> Any:
    """Start ``train.rank`` by name, so that the driver never imports the training side.

    Args:
        config: keyword arguments of ``orchestrator.train.rank.main``, without the node.
    """
    return importlib.import_module("orchestrator.train.rank").main(**config, node=node_name())


def node_name() -> str:
    """Name of this worker's node: two Ray nodes may share a host, and two hosts a name; both together tell."""
    return f"{socket.gethostname()}-{ray.get_runtime_context().get_node_id()[:6]}"
