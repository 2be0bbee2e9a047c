"""One training step of a model as one writes it by hand with each bare library; no orchestrator in the step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

Loss = Callable[[nn.Module, dict[str, Tensor]], tuple[Tensor, Any]]
Step = Callable[[dict[str, Tensor]], None]


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    """Decay on matrices only, as the orchestrator's default has it."""
    groups = [
        {"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": 0.01},
        {"params": [p for p in model.parameters() if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=1e-3)


def ddp(model: nn.Module, loss: Loss) -> Step:
    """Torch's DistributedDataParallel."""
    return _plain(DistributedDataParallel(model), loss)


def fsdp2(model: nn.Module, loss: Loss) -> Step:
    """``fully_shard`` on every block and on the model."""
    blocks: Any = model.blocks
    for block in blocks:
        fully_shard(block)
    fully_shard(model)
    return _plain(model, loss)


def _plain(model: nn.Module, loss: Loss) -> Step:
    optimizer = adamw(model)

    def step(batch: dict[str, Tensor]) -> None:
        loss(model, batch)[0].backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def deepspeed(model: nn.Module, loss: Loss, stage: int) -> Step:
    """``deepspeed.initialize`` with its defaults but for the stage and clipping."""
    import deepspeed as library

    config = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_clipping": 0.0,
        "zero_optimization": {"stage": stage},
        "zero_allow_untested_optimizer": True,
    }
    engine, *_ = library.initialize(model=model, optimizer=adamw(model), config=config, dist_init_required=False)

    def step(batch: dict[str, Tensor]) -> None:
        engine.backward(loss(engine, batch)[0])
        engine.step()

    return step
