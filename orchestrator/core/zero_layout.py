"""Where the elements of every parameter lie in ZeRO's flat partitions.

DeepSpeed keeps this to itself; what is read here is private to it. The layout is therefore made once, for the version
it was written against, and proved: over all ranks every element of every parameter lies in exactly one place, and the
values there are the model's.
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import nn

from orchestrator.core.collectives import Collectives
from orchestrator.core.errors import UnsupportedLayoutError
from orchestrator.core.layout import Run

TESTED_VERSIONS = ("0.19",)


def check_version(version: str) -> None:
    """Hold DeepSpeed to the versions whose private layout is known here.

    Raises:
        UnsupportedLayoutError: on any other.
    """
    if not version.startswith(TESTED_VERSIONS):
        raise UnsupportedLayoutError(f"deepspeed {version} is installed; known are {', '.join(TESTED_VERSIONS)}.")


def layout_of_partitions(zero: Any, rank: int) -> dict[nn.Parameter, Run]:
    """This rank's runs under a ZeRO optimizer of any stage, or under DeepSpeed's optimizer for bf16 weights.

    Raises:
        UnsupportedLayoutError: where it is none of them.
    """
    if hasattr(zero, "fp32_partitioned_groups_flat"):
        return _runs_of_parameter_shards(zero, rank)
    if hasattr(zero, "single_partition_of_fp32_groups"):
        return _runs_of_flat_partitions(zero.single_partition_of_fp32_groups, zero.bit16_groups)
    if hasattr(zero, "fp32_groups_flat_partition"):
        return _runs_of_flat_partitions(zero.fp32_groups_flat_partition, zero.bf16_groups)
    raise UnsupportedLayoutError(f"How DeepSpeed's {type(zero).__name__} divides parameters is not known.")


def _runs_of_flat_partitions(partitions: Any, groups: Any) -> dict[nn.Parameter, Run]:
    """Stages 1 and 2, and bf16: parameters of a group are laid end to end and cut into one part per rank."""
    runs: dict[nn.Parameter, Run] = {}
    for flat, parameters in zip(partitions, groups, strict=True):
        for parameter in parameters:
            mapping = parameter._hp_mapping
            shape = tuple(parameter.shape)
            if mapping is None:
                runs[parameter] = Run(flat, 0, 0, 0, shape)
                continue
            here, whole = mapping.hp_fragment_address, mapping.lp_fragment_address
            runs[parameter] = Run(flat, here.start, whole.start, here.numel, shape)
    return runs


def _runs_of_parameter_shards(zero: Any, rank: int) -> dict[nn.Parameter, Run]:
    """Stage 3: every parameter is cut evenly, the last part padded, and the parts laid end to end."""
    runs: dict[nn.Parameter, Run] = {}
    for flat, parameters in zip(zero.fp32_partitioned_groups_flat, zero.fp16_groups, strict=True):
        for parameter in parameters:
            offset = zero.grad_position[zero.get_param_id(parameter)][1]
            start, length = own_share(parameter, rank)
            runs[parameter] = Run(flat, offset, start, length, tuple(parameter.ds_shape))
    return runs


def own_share(parameter: Any, rank: int) -> tuple[int, int]:
    """First element and number of elements of a stage 3 parameter on a rank, padding left out."""
    size = parameter.ds_tensor.ds_numel
    start = min(rank * size, parameter.ds_numel)
    return start, min(size, parameter.ds_numel - start)


def prove_layout(runs: dict[nn.Parameter, Run], collectives: Collectives) -> None:
    """Make sure that the runs of all ranks cover every parameter once, with the model's own values. A collective.

    Args:
        runs: this rank's, of the same parameters in the same order on every rank.
        collectives: over all ranks.

    Raises:
        UnsupportedLayoutError: where they do not.
    """
    lengths = [run.length if _has_values_of(parameter, run) else -1 for parameter, run in runs.items()]
    device = collectives.device  # partitions may lie elsewhere
    found = torch.tensor([lengths, [_sum_of_indices(run) for run in runs.values()]], dtype=torch.int64, device=device)
    collectives.sum_(found)
    sizes = [prod(run.shape) for run in runs.values()]
    expected = torch.tensor([sizes, [size * (size - 1) // 2 for size in sizes]], dtype=torch.int64, device=device)
    if not torch.equal(found, expected):
        raise UnsupportedLayoutError("DeepSpeed divides the parameters in a way that this version does not know.")


def _has_values_of(parameter: Any, run: Run) -> bool:
    divided = hasattr(parameter, "ds_tensor")
    values = parameter.ds_tensor.detach() if divided else parameter.detach().flatten()
    start = 0 if divided else run.start
    # In the type of the weights: partitions may hold them more precisely.
    held = run.view(run.flat).to(values.device, values.dtype)
    return torch.equal(held, values[start : start + run.length])


def _sum_of_indices(run: Run) -> int:
    """Sum of the indices of the run's elements: two runs of the same length differ in it where they lie elsewhere."""
    return run.length * run.start + run.length * (run.length - 1) // 2


def runs_by_name(model: nn.Module, runs: dict[nn.Parameter, Run]) -> dict[str, Run]:
    """The runs by the names of their parameters, in the model's order."""
    return {name: runs[parameter] for name, parameter in model.named_parameters() if parameter in runs}
