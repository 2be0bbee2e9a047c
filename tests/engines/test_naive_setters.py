"""Why engines set the boundaries of a step themselves: the setters that DeepSpeed and Accelerate have for a batch that
grows let one step end half-way, divided by the whole.

The model is one weight whose gradient is 1 in every sample: by SGD at rate 1 each step moves it by exactly 1.
"""

from typing import Any

import pytest
import torch
from gloo import run_on_ranks
from torch import nn

from orchestrator.engines.deepspeed import import_deepspeed

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(300)]

MICRO_BATCHES = 12
GROWS_AFTER = 6
"""Micro-batches: three steps of two, then steps of four."""


class OneWeight(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, samples):
        return (self.weight * samples).mean()


def updates(weights: list[float]) -> list[float]:
    """How far each step moved the weight, from its values after the micro-batches."""
    moved = [before - after for before, after in zip([0.0, *weights], weights, strict=False)]
    return [step for step in moved if step]


def deepspeed_updates(zero_stage: int, *, explicit: bool) -> list[float]:
    deepspeed = import_deepspeed(torch.device("cpu"))
    model = OneWeight()
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 2,
        "gradient_clipping": 0.0,  # the default of 1 would hide it
        "zero_optimization": {"stage": zero_stage},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config, dist_init_required=False)
    weights = []
    for index in range(MICRO_BATCHES):
        if index == GROWS_AFTER:
            engine.set_train_batch_size(4)
        if explicit:
            in_step, size = (index % 2, 2) if index < GROWS_AFTER else ((index - GROWS_AFTER) % 4, 4)
            engine.set_gradient_accumulation_boundary(in_step == size - 1)
            engine.backward(engine(torch.ones(1)) / size, scale_wrt_gas=False)
        else:
            engine.backward(engine(torch.ones(1)))
        engine.step()
        weights.append(model.weight.item())
    return updates(weights)


def accelerate_updates() -> list[float]:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    model = OneWeight()
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=1.0))
    weights = []
    for index in range(MICRO_BATCHES):
        if index == GROWS_AFTER:
            accelerator.gradient_accumulation_steps = 4
        with accelerator.accumulate(model):
            accelerator.backward(model(torch.ones(1)))
            optimizer.step()
            optimizer.zero_grad()
        weights.append(accelerator.unwrap_model(model).weight.item())
    return updates(weights)


def all_updates() -> dict[str, Any]:
    return {
        **{f"zero {stage}": deepspeed_updates(stage, explicit=False) for stage in (0, 1, 2)},
        **{f"zero {stage}, our boundaries": deepspeed_updates(stage, explicit=True) for stage in (0, 1, 2)},
        "accelerate": accelerate_updates(),
    }


def test_the_setters_give_an_update_of_half_the_size_and_explicit_boundaries_do_not() -> None:
    (moved,) = run_on_ranks(1, all_updates)
    halved = [1.0, 1.0, 1.0, 0.5, 1.0]
    assert moved == {
        **{f"zero {stage}": halved for stage in (0, 1, 2)},
        **{f"zero {stage}, our boundaries": [1.0, 1.0, 1.0, 1.0] for stage in (0, 1, 2)},
        "accelerate": halved,
    }
