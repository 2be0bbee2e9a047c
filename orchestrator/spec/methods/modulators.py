"""What may change gradients between their sum and the optimizer's step."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator

from orchestrator.spec.methods.engines import NATIVE_STEP
from orchestrator.spec.section import Method, NonNegativeFloat, name_alone


class AdaptiveBraking(Method):
    """Shrinks gradients that point along the momentum and lengthens those against it (arXiv 2007.01397)."""

    name: Literal["adaptive_braking"]
    requires = frozenset({NATIVE_STEP})
    rho: NonNegativeFloat = 2.0
    """Strength; 0 changes nothing."""
    scope: Literal["tensor", "model"] = "tensor"
    """Whether the cosine is taken of each tensor or of the whole model."""
    min_delay: NonNegativeFloat = 0.5
    """Asynchronous and delayed exchanges: mean delay in updates below which `rho` falls to 0 in proportion, as braking
    only costs speed there; 0 always brakes."""


ModulatorConfig = Annotated[AdaptiveBraking, BeforeValidator(name_alone)]
