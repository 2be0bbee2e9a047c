"""Which way a LAMB step runs: the same on every rank, as replicas computed in two ways would drift apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch

from orchestrator.core.collectives import Collectives
from orchestrator.optim.kernels.lamb import EagerLamb, LambKernels, UnavailableError

Implementation = Literal["auto", "eager", "compiled", "fused"]


def choose_lamb(
    implementation: Implementation, device: torch.device, dtype: torch.dtype, collectives: Collectives
) -> LambKernels:
    """The kernels for parameters of that type on that device; all ranks call it together and get the same.

    Args:
        implementation: auto takes the fused kernels where every rank has them and torch's operations elsewhere; its
            ``title`` then says why.
        device: of the parameters.
        dtype: of the parameters.
        collectives: of all ranks.

    Raises:
        UnavailableError: if ``fused`` is asked for and any rank lacks it; says why.
    """
    if implementation == "eager":
        return EagerLamb()
    if implementation == "compiled":
        from orchestrator.optim.kernels.compiled import CompiledLamb

        return CompiledLamb()
    kernels, reason = _try(lambda: _fused(device, dtype))
    lacking = collectives.sum_int(kernels is None)
    if kernels is not None and not lacking:
        return kernels
    reason = reason or f"{lacking} of {collectives.world_size} ranks cannot run the fused kernels."
    if implementation == "fused":
        raise UnavailableError(f"optimizer.implementation: fused cannot be had here: {reason}")
    eager = EagerLamb()
    eager.title = f"eager, because {reason.rstrip('.')}"
    return eager


def _try(build: Callable[[], LambKernels]) -> tuple[LambKernels | None, str]:
    """The kernels, or why there are none: no rank may leave before all have said whether they have them."""
    try:
        return build(), ""
    except UnavailableError as error:
        return None, str(error)


def _fused(device: torch.device, dtype: torch.dtype) -> LambKernels:
    """The fused kernels for a device.

    Raises:
        UnavailableError: if there are none for it.
    """
    if device.type == "cuda":
        try:
            from orchestrator.optim.kernels.triton_lamb import TritonLamb
        except ImportError as error:
            raise UnavailableError(f"the GPU kernels need Triton, which cannot be imported: {error}.") from error
        return TritonLamb()
    if device.type != "cpu":
        raise UnavailableError(f"there are fused kernels for cpu and cuda, not for {device.type}.")
    if dtype != torch.float32:
        raise UnavailableError(
            f"the C++ kernels take parameters of float32, not of {str(dtype).removeprefix('torch.')}."
        )
    from orchestrator.optim.kernels.fused import FusedLamb

    return FusedLamb()
