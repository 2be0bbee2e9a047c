"""All that ``modulators`` may hold."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field

from orchestrator.spec.methods.gradient_modulators import AdaptiveBraking, Agvm, ModuleNoise, Vrgd
from orchestrator.spec.methods.loss_modulators import Conadv, Disadv, GradientNoise, Sam, SavedActivations
from orchestrator.spec.methods.model_modulators import (
    BatchChannelNorm,
    GhostNorm,
    SyncBatchNorm,
    WeightStandardization,
)
from orchestrator.spec.section import name_alone

ModulatorConfig = Annotated[
    Annotated[
        GhostNorm
        | SyncBatchNorm
        | WeightStandardization
        | BatchChannelNorm
        | GradientNoise
        | Sam
        | SavedActivations
        | Disadv
        | Conadv
        | AdaptiveBraking
        | Agvm
        | ModuleNoise
        | Vrgd,
        Field(discriminator="name"),
    ],
    BeforeValidator(name_alone),
]
