"""Embeddings of a large batch with the activations of a small one: computed again in the backward, chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from inspect import ismethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from orchestrator.core.errors import RecipeError


def embed_in_chunks(
    encode: Callable[..., Tensor | Sequence[Tensor]], inputs: Sequence[Tensor], chunk_size: int | None
) -> tuple[Tensor, ...]:
    """What a model makes of a batch, with activations of no more than one chunk held at a time. Exact.

    The forward keeps nothing of a chunk but its inputs and outputs; the backward computes one chunk again after the
    other, with the random numbers that it had. That is GradCache's two passes (Gao et al., arXiv 2101.06983; BASIC,
    arXiv 2111.10050, does alike) without a backward of its own: gradients arrive at each weight once, so that an
    engine sums them over workers as it always does. It costs one more forward.

    Args:
        encode: the model, as the engine gives it, or a method of a module. It is called with one chunk of each input
            and gives one or several embeddings, each [samples of the chunk, ...], and scalars (a temperature), which
            must not depend on the inputs: the first chunk's are taken.
        inputs: tensors of the same first dimension, samples.
        chunk_size: most samples of a chunk; None is all at once, and nothing is computed again.

    Returns:
        Embeddings of all samples, and the scalars, in the order in which ``encode`` gives them.

    Raises:
        RecipeError: where the model normalizes over the samples of a batch, which would be those of a chunk, with
            running statistics that move twice; where inputs differ in length, or the chunk size is not positive.
    """
    if chunk_size is None:
        return _as_tuple(encode(*inputs))
    _check(encode, inputs, chunk_size)
    chunks = [_as_tuple(checkpoint(encode, *chunk, use_reentrant=False)) for chunk in _cut(inputs, chunk_size)]
    return tuple(_joined(parts) for parts in zip(*chunks, strict=True))


def _cut(inputs: Sequence[Tensor], chunk_size: int) -> Iterator[tuple[Tensor, ...]]:
    return zip(*(tensor.split(chunk_size) for tensor in inputs), strict=True)


def _as_tuple(outputs: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if parts[0].dim() == 0 else torch.cat(list(parts))


def _check(encode: Any, inputs: Sequence[Tensor], chunk_size: int) -> None:
    if chunk_size < 1:
        raise RecipeError(f"embed_in_chunks: chunk_size is {chunk_size}. Legal: a number of samples, or None.")
    lengths = [len(tensor) for tensor in inputs]
    if len(set(lengths)) != 1:
        raise RecipeError(f"embed_in_chunks: inputs of {lengths} samples. Legal: one number of samples.")
    model = encode.__self__ if ismethod(encode) else encode
    if not isinstance(model, nn.Module):
        raise RecipeError(
            f"embed_in_chunks: encode is {encode!r}, whose layers cannot be seen. Legal: a module or a module's method."
        )
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and module.training:
            raise RecipeError(
                f"embed_in_chunks: {name or 'the model'} is a {type(module).__name__}, which would normalize over a "
                "chunk and move its running statistics twice. Legal: layer or group norm, batch norm in evaluation "
                "mode, or chunk_size None."
            )
