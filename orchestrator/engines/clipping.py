"""How long a gradient may be: a number, or what most gradients so far were shorter than."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from orchestrator.core.collectives import Collectives
from orchestrator.spec.job import Train


class Clipping:
    """The bound on the global L2 norm of the gradient, which may follow the norms of the steps before (AutoClip).

    Args:
        train: with ``clip_grad_norm`` or ``auto_clip``, or neither.
        collectives: over ranks each of which has the gradients of other tensors; None where every rank has all.
    """

    def __init__(self, train: Train, collectives: Collectives | None = None) -> None:
        self._collectives = collectives
        self._fixed = train.clip_grad_norm
        self._auto = train.auto_clip
        self._norms: deque[float] = deque(maxlen=None if self._auto is None else self._auto.history)

    @property
    def is_on(self) -> bool:
        """Whether gradients are clipped at all."""
        return self._fixed is not None or self._auto is not None

    def bound(self, norm: Tensor | float) -> float:
        """The bound for a gradient of this norm, which is remembered; inf without clipping.

        A norm that is not finite belongs to a step that is not taken, and is forgotten.
        """
        if self._auto is None:
            return float("inf") if self._fixed is None else self._fixed
        value = float(norm)
        if np.isfinite(value):
            self._norms.append(value)
        return float(np.quantile(self._norms, self._auto.quantile)) if self._norms else float("inf")

    def clip_(self, parameters: list[nn.Parameter]) -> Tensor:
        """Scale all gradients so that their norm is within the bound; returns the norm before, a scalar."""
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if isinstance(norm, DTensor):
            norm = norm.full_tensor()
        if self._collectives is not None:
            square = norm.double().square()
            self._collectives.sum_(square)
            norm = square.sqrt().to(norm)
        nn.utils.clip_grads_with_norm_(parameters, self.bound(norm), norm)
        return norm

    def state_dict(self) -> dict[str, Any]:
        """JSON values; empty where no norms are remembered."""
        return {"norms": list(self._norms)} if self._norms else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore ``state_dict``."""
        self._norms.clear()
        self._norms.extend(state.get("norms", ()))
