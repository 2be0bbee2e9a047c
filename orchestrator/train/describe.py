"""Counts what a recipe's model holds, for ``orchestrator plan``; run as a process of its own, prints JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from orchestrator.core.errors import OrchestratorError
from orchestrator.core.user_code import user_code
from orchestrator.spec.load import load_resolved
from orchestrator.train.recipe import load_recipe


def describe(code_folder: Path, resolved_spec: Path) -> dict[str, int]:
    """Sizes of the model that the recipe builds.

    Returns:
        ``num_parameters`` (trainable), ``parameter_bytes`` (all) and ``buffer_bytes``.
    """
    recipe = load_recipe(load_resolved(resolved_spec).recipe, code_folder)
    # No memory is touched: a model of any size can be planned on a laptop.
    with torch.device("meta"), user_code(f"{type(recipe).__name__}.build_model", code_folder):
        model: torch.nn.Module = recipe.build_model()
    return {
        "num_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "parameter_bytes": sum(p.numel() * p.element_size() for p in model.parameters()),
        "buffer_bytes": sum(b.numel() * b.element_size() for b in model.buffers()),
    }


def main() -> int:
    """``python -m orchestrator.train.describe CODE_FOLDER RESOLVED_SPEC``."""
    try:
        print(json.dumps(describe(Path(sys.argv[1]), Path(sys.argv[2]))))
    except OrchestratorError as error:
        print(json.dumps({"error": str(error)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
