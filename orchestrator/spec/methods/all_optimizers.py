"""Every optimizer that a spec may name."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from orchestrator.spec.methods.factored_optimizers import FactoredOptimizer
from orchestrator.spec.methods.layerwise_optimizers import LayerwiseConfig
from orchestrator.spec.methods.loss_optimizers import LossConfig
from orchestrator.spec.methods.optimizers import OwnOptimizer
from orchestrator.spec.methods.package_optimizers import PackageOptimizer

OptimizerConfig = Annotated[
    OwnOptimizer | LayerwiseConfig | FactoredOptimizer | LossConfig | PackageOptimizer, Field(discriminator="name")
]
