"""The rule sde changes betas and eps between phases: every optimizer that has them reads them from its groups."""

from typing import Any

import pytest
import torch
from methods.settings import SETTINGS

from orchestrator.core.collectives import Collectives
from orchestrator.core.tables import OPTIMIZERS, load
from orchestrator.spec.seams import seams

ADAM_LIKE = {
    name: method
    for name, method in seams()["optimizer"].methods.items()
    if {"betas", "eps"} <= method.model_fields.keys()
}


def test_there_are_some() -> None:
    assert {"adamw", "lamb"} <= ADAM_LIKE.keys()


@pytest.mark.parametrize("name", ADAM_LIKE)
def test_betas_and_eps_are_numbers_of_the_groups(name: str) -> None:
    config: Any = ADAM_LIKE[name].model_validate(SETTINGS["optimizer"][name]["optimizer"])
    # Numbers that no default has.
    config = config.model_copy(update={"betas": tuple(0.7 + 0.1 * i for i in range(len(config.betas))), "eps": 3e-5})
    optimizer = load(OPTIMIZERS, name)(config, torch.nn.Linear(3, 2), collectives=Collectives())
    for group in optimizer.param_groups:
        assert tuple(group["betas"]) == config.betas
        assert group["eps"] == config.eps
