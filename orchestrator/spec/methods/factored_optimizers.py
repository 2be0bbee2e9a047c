"""Optimizers that a spec may name whose second moments are kept as rows and columns of each matrix."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field

from orchestrator.spec.methods.engines import ROWS
from orchestrator.spec.methods.optimizers import OptimizerBase
from orchestrator.spec.section import DecayRate, NonNegativeFloat, PositiveFloat, list_to_tuple


class Adafactor(OptimizerBase):
    """Second moments in the memory of a row and a column (arXiv 1804.04235): what torch.optim.Adafactor computes.

    Rows and columns of a matrix cannot be made of runs of its elements, so the engine may divide tensors by rows only.
    """

    requires: ClassVar[frozenset[str]] = frozenset({ROWS})

    name: Literal["adafactor"]
    lr: PositiveFloat = 1e-2
    """Largest relative step, before the scaling rule and the schedule: step t moves a tensor by at most
    min(lr, 1 / sqrt(t)) of its root mean square."""
    beta2_decay: Annotated[float, Field(le=0)] = -0.8
    """The decay rate of the second moment at step t is 1 - t^beta2_decay."""
    eps: Annotated[tuple[PositiveFloat | None, PositiveFloat], BeforeValidator(list_to_tuple)] = (None, 1e-3)
    """Least root of the second moment, where null is the precision of the weights' type, and least root mean square
    of a tensor in its relative step."""
    d: Annotated[float, Field(ge=1)] = 1.0
    """Largest root mean square of a direction, which is scaled down to it."""
    weight_decay: NonNegativeFloat = 0.0
    """Decoupled weight decay."""


class Came(OptimizerBase):
    """Adafactor with a momentum that is trusted less where updates stray from it (arXiv 2307.02047).

    Rows and columns of a matrix cannot be made of runs of its elements, so the engine may divide tensors by rows only.
    """

    requires: ClassVar[frozenset[str]] = frozenset({ROWS})

    name: Literal["came"]
    lr: PositiveFloat = 2e-4
    """Learning rate before the scaling rule and the schedule."""
    betas: Annotated[tuple[DecayRate, DecayRate, DecayRate], BeforeValidator(list_to_tuple)] = (0.9, 0.999, 0.9999)
    """Decay rates of the averaged update, of the squared gradients, and of the squared distances between update and
    average."""
    eps: Annotated[tuple[PositiveFloat, PositiveFloat], BeforeValidator(list_to_tuple)] = (1e-30, 1e-16)
    """Added to the squared gradients, and to the squared distances."""
    clip_threshold: PositiveFloat = 1.0
    """Largest root mean square of an update before it is averaged; larger ones are scaled down to it."""
    weight_decay: NonNegativeFloat = 0.0
    """Decoupled weight decay."""


FactoredOptimizer = Adafactor | Came
"""Every optimizer whose second moments are rows and columns."""
