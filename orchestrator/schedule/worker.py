"""What a Ray Train worker runs: it hands over to the rank, which knows no Ray."""

from __future__ import annotations

import importlib
from typing import Any


def run_rank(config: dict[str, Any]) -> Any:
    """Start ``train.rank`` by name, so that the driver never imports the training side.

    Args:
        config: keyword arguments of ``orchestrator.train.rank.main``.
    """
    return importlib.import_module("orchestrator.train.rank").main(**config)
