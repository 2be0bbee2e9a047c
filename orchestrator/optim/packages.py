"""Optimizers of torch and of pytorch_optimizer, built from their configuration."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytorch_optimizer
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from orchestrator.core.collectives import Collectives
from orchestrator.core.errors import RecipeError
from orchestrator.core.patterns import matches
from orchestrator.optim.grouping import LR_MULTIPLIER, names_and_owners, parameter_groups
from orchestrator.optim.state_in_tensors import StateInTensors
from orchestrator.spec.methods.optimizers import OptimizerBase
from orchestrator.spec.methods.package_optimizers import (
    AdaBelief,
    AdaBound,
    Adagrad,
    Adopt,
    DAdaptAdam,
    Lion,
    Mars,
    Muon,
    NAdam,
    Prodigy,
    RAdam,
)

STEP = {"step": 0}
"""What every optimizer of pytorch_optimizer carries in its groups."""


def build_torch(config: RAdam | NAdam, model: nn.Module, collectives: Collectives) -> torch.optim.Optimizer:
    """torch.optim.RAdam or NAdam over the model's trainable parameters."""
    kind = torch.optim.RAdam if isinstance(config, RAdam) else torch.optim.NAdam
    return kind(parameter_groups(model, config), **_arguments(config))


def build_adagrad(config: Adagrad, model: nn.Module, collectives: Collectives) -> torch.optim.Optimizer:
    """torch.optim.Adagrad over the model's trainable parameters."""

    def create_state(group: dict[str, Any], parameter: Tensor) -> dict[str, Tensor]:
        total = torch.full_like(parameter, group["initial_accumulator_value"])
        return {"step": torch.zeros((), dtype=torch.float32), "sum": total}

    return StateInTensors(torch.optim.Adagrad(parameter_groups(model, config), **_arguments(config)), {}, create_state)


def build_elementwise(
    config: Lion | AdaBelief | Adopt | AdaBound, model: nn.Module, collectives: Collectives
) -> torch.optim.Optimizer:
    """Lion, AdaBelief, ADOPT or AdaBound of pytorch_optimizer over the model's trainable parameters."""
    kinds = {
        "lion": pytorch_optimizer.Lion,
        "adabelief": pytorch_optimizer.AdaBelief,
        "adopt": pytorch_optimizer.ADOPT,
        "adabound": pytorch_optimizer.AdaBound,
    }
    # ADOPT's batched step has an operation that DTensors lack.
    foreach = _on_gpu(model) and not (isinstance(config, Adopt) and _is_divided(model))
    inner = kinds[config.name](parameter_groups(model, config), **_package_arguments(config), foreach=foreach)
    return StateInTensors(inner, STEP)


def build_mars(config: Mars, model: nn.Module, collectives: Collectives) -> torch.optim.Optimizer:
    """pytorch_optimizer's MARS over the model's trainable parameters."""
    arguments = _package_arguments(config)
    arguments["lr_1d"] = config.lr * arguments.pop("lr_multiplier_1d")
    # The groups say already who is decayed.
    groups = [{**group, "weight_decay_1d": group["weight_decay"]} for group in parameter_groups(model, config)]
    return StateInTensors(pytorch_optimizer.MARS(groups, **arguments, foreach=_on_gpu(model)), STEP)


def build_dadapt_adam(config: DAdaptAdam, model: nn.Module, collectives: Collectives) -> torch.optim.Optimizer:
    """pytorch_optimizer's DAdaptAdam over the model's trainable parameters."""
    groups, arguments = parameter_groups(model, config), _package_arguments(config)
    inner = pytorch_optimizer.DAdaptAdam(groups, **arguments, foreach=_on_gpu(model))
    return StateInTensors(inner, {**STEP, "d": config.d0, "numerator_weighted": torch.zeros(1)})


def build_prodigy(config: Prodigy, model: nn.Module, collectives: Collectives) -> torch.optim.Optimizer:
    """pytorch_optimizer's Prodigy over the model's trainable parameters."""
    groups, arguments = parameter_groups(model, config), _package_arguments(config)
    inner = pytorch_optimizer.Prodigy(groups, **arguments, foreach=_on_gpu(model))
    return StateInTensors(inner, {"step": 1, "d": config.d0, "d_max": config.d0, "d_numerator": torch.zeros(1)})


def build_muon(config: Muon, model: nn.Module, collectives: Collectives) -> torch.optim.Optimizer:
    """pytorch_optimizer's Muon over the model's trainable parameters: matrices, and the rest with AdamW.

    Raises:
        RecipeError: where a pattern of ``adamw_for`` matches no parameter.
    """
    adamw = _stepped_by_adamw(config, model)
    groups = []
    for group in parameter_groups(model, config):
        for use_muon in (True, False):
            params = [(name, parameter) for name, parameter in group["params"] if (name not in adamw) == use_muon]
            multiplier = group[LR_MULTIPLIER] * (1.0 if use_muon else config.adamw_lr_multiplier)
            if params:
                groups.append({**group, "params": params, "use_muon": use_muon, LR_MULTIPLIER: multiplier})
    arguments = _arguments(config, but={"adamw_for", "adamw_lr_multiplier"})
    return StateInTensors(pytorch_optimizer.Muon(groups, **arguments, foreach=_on_gpu(model)), STEP)


def _stepped_by_adamw(config: Muon, model: nn.Module) -> set[str]:
    """Names of the parameters that are no matrices, or are not to be treated as such."""
    names = {name: set(names_and_owners(name, model)) for name, _ in model.named_parameters()}
    chosen = {name for name, parameter in model.named_parameters() if parameter.dim() < 2}
    for pattern in config.adamw_for or ("Embedding",):
        matching = {name for name, candidates in names.items() if any(matches(pattern, c) for c in candidates)}
        if config.adamw_for is not None and not matching:
            known = ", ".join(sorted(set().union(*names.values())))
            raise RecipeError(
                f"optimizer.adamw_for: no parameter of {type(model).__name__} matches {pattern!r}. "
                f"Parameters and modules: {known}."
            )
        chosen |= matching
    return chosen


def _arguments(config: OptimizerBase, but: Collection[str] = ()) -> dict[str, Any]:
    """The optimizer's own arguments and its rate; those that are null stay the package's."""
    shared = (OptimizerBase.model_fields.keys() - {"lr"}).union(but)
    return {name: value for name, value in config if name not in shared and value is not None}


def _package_arguments(config: OptimizerBase) -> dict[str, Any]:
    """The same under the names of pytorch_optimizer."""
    arguments = _arguments(config)
    arguments["weight_decouple"] = arguments.pop("decoupled_weight_decay")
    return arguments


def _on_gpu(model: nn.Module) -> bool:
    """Whether steps are batched over tensors: on CPUs that reads every tensor many times over."""
    return next(model.parameters()).is_cuda


def _is_divided(model: nn.Module) -> bool:
    return isinstance(next(model.parameters()), DTensor)
