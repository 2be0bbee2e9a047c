"""What a formula is given besides the model: how the step is divided, and what the optimizer holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.launch.memory.model import Backward, Model
from orchestrator.spec.methods.optimizers import AdamW, Lamb, Sgd

FLOAT32_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerCost:
    """What an optimizer holds for its tensors, all of them in fp32."""

    moments: int
    """Tensors of the size of the parameters that it keeps."""
    in_passing: int
    """Tensors of the size of one parameter that its step computes and drops."""
    at_once: bool
    """Whether the step works on all tensors at once, not on one after another."""

    def state_bytes(self, numel: int) -> int:
        """State of so many elements."""
        return self.moments * numel * FLOAT32_BYTES

    def step_bytes(self, numels: Sequence[int]) -> int:
        """Most that a step computes in passing for tensors of so many elements."""
        return self.in_passing * (sum(numels) if self.at_once else max(numels, default=0)) * FLOAT32_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One number of workers."""

    workers: int
    micro_batch_size: int
    """Most samples of one backward."""
    num_micro_batches: int
    """Backwards per worker and step."""
    optimizer: OptimizerCost
    on_gpu: bool

    def backward(self, model: Model, param_dtype: str | None = None) -> Backward:
        """What one backward holds."""
        return model.backward(self.micro_batch_size, param_dtype)

    def staging(self, message_bytes: int) -> int:
        """What an all-gather or reduce-scatter of a message copies: gloo stages the whole of it, NCCL nothing."""
        return 0 if self.on_gpu or self.workers == 1 else message_bytes


def optimizer_cost(optimizer: Sgd | AdamW | Lamb, *, on_gpu: bool) -> OptimizerCost:
    """What the spec's optimizer holds. torch's own optimizers work on all tensors at once on a GPU."""
    if isinstance(optimizer, Sgd):
        decays = optimizer.weight_decay > 0
        return OptimizerCost(moments=1 if optimizer.momentum else 0, in_passing=int(decays), at_once=on_gpu)
    if isinstance(optimizer, AdamW):
        return OptimizerCost(moments=3 if optimizer.amsgrad else 2, in_passing=1 if on_gpu else 2, at_once=on_gpu)
    return OptimizerCost(moments=2, in_passing=2, at_once=False)
