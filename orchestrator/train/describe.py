"""Measures a recipe's model and one of its micro-batches without memory, for ``orchestrator plan``; run on its own.

The answer goes to a file as JSON: the model as soon as it is known, what its activations take when that is known too.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves, tree_map_only

from orchestrator.core import tables
from orchestrator.core.errors import OrchestratorError
from orchestrator.core.run_directory import write_atomically
from orchestrator.core.user_code import user_code
from orchestrator.data.loader import evaluation_micro_batches
from orchestrator.engines.fsdp2 import units
from orchestrator.engines.modules import checkpoint_activations
from orchestrator.engines.precision import DTYPES, Precision
from orchestrator.spec.job import JobSpec
from orchestrator.spec.load import load_recipe_job
from orchestrator.spec.methods.engines import Fsdp2
from orchestrator.spec.sharding import fsdp2_of
from orchestrator.train.activations import REST, trace_backward
from orchestrator.train.recipe import load_recipe, training_loss
from orchestrator.train.sources import fresh_model

CPU = torch.device("cpu")


def describe(code_folder: Path, resolved_spec: Path, answer: Path, micro_batch_sizes: Sequence[int]) -> None:
    """Write what the model holds and what a backward of each size adds.

    Args:
        code_folder: the spec's folder.
        resolved_spec: the spec with all defaults.
        answer: written as ``launch.memory.model`` reads it.
        micro_batch_sizes: in samples.

    Raises:
        RecipeError: where the model cannot be built.
    """
    spec = load_recipe_job(resolved_spec)
    recipe = load_recipe(spec.recipe, code_folder)
    config = fsdp2_of(spec, code_folder) or Fsdp2(name="fsdp2")
    # No memory is touched: a model of any size can be planned on a laptop.
    with torch.device("meta"):
        model = fresh_model(spec, recipe, code_folder)
    found = {"buffer_bytes": sum(b.nbytes for b in model.buffers()), **_parameters(model, units(model, config))}
    _write(answer, found)
    try:
        backwards = _trace(spec, recipe, config, code_folder, micro_batch_sizes)
        _write(answer, {**found, "backwards": backwards})
    except OrchestratorError as error:
        _write(answer, {**found, "activations_unknown": str(error)})


def _parameters(model: nn.Module, chosen: Sequence[nn.Module]) -> dict[str, Any]:
    owners: dict[nn.Parameter, int] = {}
    for number, unit in enumerate(chosen):
        for parameter in unit.parameters():
            owners.setdefault(parameter, number)
    parameters = [
        {
            "name": name,
            "shape": list(p.shape),
            "item_bytes": p.element_size(),
            "trainable": p.requires_grad,
            "unit": owners.get(p, REST),
        }
        for name, p in model.named_parameters()
    ]
    return {"num_units": len(chosen), "parameters": parameters}


def _trace(
    spec: JobSpec, recipe: Any, config: Fsdp2, code_folder: Path, micro_batch_sizes: Sequence[int]
) -> list[dict[str, Any]]:
    train_set, _ = tables.load(tables.SOURCES, spec.data.source.name)(spec.data.source, recipe, code_folder)
    backwards = []
    for size in micro_batch_sizes:
        batches = evaluation_micro_batches(
            train_set,
            getattr(recipe, "collate", None),
            rank=0,
            world_size=1,
            micro_batch_size=size,
            device=CPU,
            code_folder=code_folder,
        )
        batch, num_samples = next(batches)
        for compute_type in dict.fromkeys((None, config.param_dtype)):
            segments = _trace_one(spec, recipe, config, code_folder, batch, compute_type)
            backwards.append(
                {
                    "num_samples": num_samples,
                    "param_dtype": compute_type,
                    "batch_bytes": sum(leaf.nbytes for leaf in tree_leaves(batch) if isinstance(leaf, torch.Tensor)),
                    "segments": [asdict(segment) for segment in segments],
                }
            )
    return backwards


def _trace_one(
    spec: JobSpec, recipe: Any, config: Fsdp2, code_folder: Path, batch: Any, compute_type: str | None
) -> list[Any]:
    """Segments of one backward; a model can be traced once, so it is built anew."""
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    name = f"Tracing {type(recipe).__name__} without computing it"
    with user_code(name, code_folder), fake:
        model = fresh_model(spec, recipe, code_folder)
    if spec.train.activation_checkpointing is not None:
        checkpoint_activations(model, spec.train.activation_checkpointing)
    if compute_type is not None:
        dtype = DTYPES[compute_type]
        with fake:
            model.to(dtype)
        batch = tree_map_only(torch.Tensor, lambda t: t.to(dtype) if t.is_floating_point() else t, batch)
    with user_code(name, code_folder):
        return trace_backward(
            model.train(),
            units(model, config),
            training_loss(spec, recipe, code_folder),
            batch,
            fake,
            Precision(spec.train.precision, CPU).forward(),
        )


def _write(answer: Path, found: dict[str, Any]) -> None:
    write_atomically(answer, json.dumps(found))


def main() -> int:
    """``python -m orchestrator.train.describe CODE_FOLDER RESOLVED_SPEC ANSWER SIZE...``."""
    code_folder, resolved_spec, answer = map(Path, sys.argv[1:4])
    try:
        describe(code_folder, resolved_spec, answer, [int(size) for size in sys.argv[4:]])
    except OrchestratorError as error:
        _write(answer, {"error": str(error)})
    return 0


if __name__ == "__main__":
    sys.exit(main())
