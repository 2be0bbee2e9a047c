"""Weight standardization: convolutions whose filters have mean 0 and variance 1."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor, nn

from orchestrator.core.errors import RecipeError
from orchestrator.core.patterns import matches
from orchestrator.modulate.model.layers import has_forward_of, layer_names, replace_forward
from orchestrator.spec.methods.model_modulators import WeightStandardization

EPS = 1e-5
"""Added to the variance of a filter."""
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
Convolution: TypeAlias = nn.Conv1d | nn.Conv2d | nn.Conv3d


def standardized(weight: Tensor) -> Tensor:
    """Each filter minus its mean, over sqrt(its unbiased variance + 1e-5); differentiable.

    Args:
        weight: ``[filters, ...]``, at least two weights in each.

    Returns:
        Of the same shape and type.
    """
    precise = weight.to(torch.promote_types(weight.dtype, torch.float32))
    variance, mean = torch.var_mean(precise, list(range(1, weight.dim())), correction=1, keepdim=True)
    return ((precise - mean) * (variance + EPS).rsqrt()).to(weight.dtype)


class StandardizedConvolutions:
    """Weight standardization (arXiv 1903.10520). Satisfies ``core.protocols.ModelModulator``.

    A convolution computes with w in place of its parameter v, filter by filter, and v is what is trained::

        w = (v - mean(v)) / sqrt(var(v) + 1e-5)        var unbiased, over the weights of a filter

    Checkpoints and exported weights hold v under the recipe's names; ``standardized`` turns them into w, with which the
    recipe's own model computes the same.

    Args:
        config: ``modules``, patterns of class or dotted name, of convolutions or of modules around them; null is all.

    Differences from the paper: it standardizes the convolutions that a normalization follows; a model does not tell
    which these are, so ``modules`` must where some are not.
    """

    def __init__(self, config: WeightStandardization) -> None:
        self._config = config

    def change(self, model: nn.Module) -> nn.Module:
        """See ``core.protocols.ModelModulator``."""
        for name, module in self._selected(model).items():
            if not has_forward_of(module, CONVOLUTIONS):
                raise self._refusal(name, f"a {type(module).__name__} with a forward of its own")
            if module.weight[0].numel() == 1:
                raise self._refusal(name, "whose filters have one weight each, and so no variance")
            replace_forward(module, _standardized_forward)
        return model

    def _selected(self, model: nn.Module) -> dict[str, Convolution]:
        found = {name: module for name, module in model.named_modules() if isinstance(module, CONVOLUTIONS)}
        if not found:
            raise RecipeError(
                f"modulators: weight_standardization changes convolutions, and {type(model).__name__} has none; its "
                f"layers are {layer_names(model)}."
            )
        if self._config.modules is None:
            return found
        chosen: dict[str, Convolution] = {}
        for pattern in self._config.modules:
            matching = {name: module for name, module in found.items() if _is_meant(pattern, name, model)}
            if not matching:
                raise RecipeError(
                    f"modulators: weight_standardization.modules: no convolution is or lies in {pattern!r}. Legal: "
                    f"classes and dotted names, such as those of the convolutions: {', '.join(found)}."
                )
            chosen.update(matching)
        return chosen

    @staticmethod
    def _refusal(name: str, reason: str) -> RecipeError:
        return RecipeError(
            f"modulators: weight_standardization cannot change {name}, {reason}. Legal: `modules` that leave it out."
        )


def _is_meant(pattern: str, name: str, model: nn.Module) -> bool:
    """Whether a pattern is of a module or of one around it."""
    parts = name.split(".")
    around = (".".join(parts[:length]) for length in range(1, len(parts) + 1))
    return any(type(model.get_submodule(part)).__name__ == pattern or matches(pattern, part) for part in around)


def _standardized_forward(module: Convolution, inputs: Tensor) -> Tensor:
    outputs: Tensor = module._conv_forward(inputs, standardized(module.weight), module.bias)
    return outputs
