"""Products of the loss's Hessian with a random vector, for optimizers that estimate its diagonal from them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from orchestrator.core.collectives import Collectives
from orchestrator.core.errors import RecipeError


def gradients_and_products(
    value: Tensor, parameters: Sequence[Tensor], vector: Sequence[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """The gradient g of a scalar, and the product H v of its Hessian with a vector; the graph is freed.

    Args:
        value: a scalar with gradient.
        parameters: to differentiate by; one that the scalar does not depend on has zeros.
        vector: v, a tensor of the shape of each parameter.

    Raises:
        RuntimeError: where an operation on the way cannot be differentiated twice.
    """
    first = torch.autograd.grad(value, parameters, create_graph=True, materialize_grads=True)
    bent = [(g, v) for g, v in zip(first, vector, strict=True) if g.requires_grad]
    gradients = [g.detach() for g in first]
    if not bent:  # the scalar is linear in all of them
        return gradients, [torch.zeros_like(g) for g in gradients]
    if _is_cut([g for g, _ in bent]):
        raise RuntimeError("the backward of a torch.autograd.Function is marked with @once_differentiable.")
    products = torch.autograd.grad(
        [g for g, _ in bent], parameters, grad_outputs=[v for _, v in bent], materialize_grads=True
    )
    return gradients, list(products)


def _is_cut(gradients: Sequence[Tensor]) -> bool:
    """Whether a function that can be differentiated only once is on the way: torch would take the rest for zero."""
    waiting, seen = [g.grad_fn for g in gradients], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        if node.name() == "torch::autograd::Error":
            return True
        seen.add(node)
        waiting += [following for following, _ in node.next_functions]
    return False


class HessianDiagonal:
    """Hutchinson's estimate of the diagonal of the Hessian of a step's loss: z H z, elementwise, z of random signs.

    H z is linear in the loss. All micro-batches and ranks take the same z in a step, so that the sum of their products
    is that of the global batch's loss, however it is divided among them.

    Args:
        parameters: whole, in the same order on every rank; each with a ``.grad`` that gradients are added to.
        collectives: over all ranks.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], collectives: Collectives) -> None:
        self._parameters = parameters
        self._collectives = collectives
        self._signs: list[Tensor] = []
        self._products: list[Tensor] = []

    def begin_step(self) -> None:
        """Draw the signs of the step by rank 0's random numbers, which the loop keys by step: a resume repeats them."""
        seed = torch.randint(2**62, (1,), device=self._collectives.device)
        self._collectives.broadcast_([seed])
        device = self._parameters[0].device
        generator = torch.Generator(device).manual_seed(int(seed))
        self._signs = [
            torch.randint(2, p.shape, generator=generator, dtype=p.dtype, device=device).mul_(2).sub_(1)
            for p in self._parameters
        ]
        self._products = [torch.zeros_like(p) for p in self._parameters]

    def forward(self) -> AbstractContextManager[None]:
        """The context of a forward pass: attention in the form that torch differentiates twice."""
        return sdpa_kernel(SDPBackend.MATH)

    def backward(self, value: Tensor) -> Sequence[Tensor]:
        """Add a micro-batch's gradient to the parameters' ``.grad``, and its product to the step's.

        Returns:
            The micro-batch's gradient, parameter by parameter.

        Raises:
            RecipeError: where the model cannot be differentiated twice.
        """
        try:
            gradients, products = gradients_and_products(value, self._parameters, self._signs)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise RecipeError(
                "The optimizer takes second derivatives of the loss, and an operation of the model has none: "
                f"{str(error).splitlines()[0]} Legal: operations that torch differentiates twice, or an optimizer that "
                "needs gradients only."
            ) from error
        with torch.no_grad():
            for parameter, gradient in zip(self._parameters, gradients, strict=True):
                assert parameter.grad is not None  # the exchange has put it there
                parameter.grad.add_(gradient)
            torch._foreach_add_(self._products, products)
        return gradients

    def finish(self) -> tuple[dict[Tensor, Tensor], int]:
        """The estimate over all ranks by parameter, equal on all of them, and the bytes that this rank sent for it."""
        flat = torch.cat([product.reshape(-1) for product in self._products])
        self._collectives.sum_(flat)
        parts = flat.split([p.numel() for p in self._parameters])
        estimates: dict[Tensor, Tensor] = {
            p: part.view_as(p).mul_(signs) for p, part, signs in zip(self._parameters, parts, self._signs, strict=True)
        }
        self._signs, self._products = [], []
        return estimates, flat.numel() * flat.element_size() if self._collectives.world_size > 1 else 0
