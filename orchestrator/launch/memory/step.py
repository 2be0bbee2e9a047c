"""What a formula is given besides the model: how the step is divided, and what the optimizer holds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

from orchestrator.launch.memory.model import Backward, Model
from orchestrator.spec.job import JobSpec
from orchestrator.spec.methods.all_optimizers import OptimizerConfig
from orchestrator.spec.methods.asynchronous import Delayed
from orchestrator.spec.methods.compensations import DcAsgd
from orchestrator.spec.methods.factored_optimizers import Adafactor, Came
from orchestrator.spec.methods.loss_modulators import Conadv
from orchestrator.spec.methods.optimizers import AdamW, Lamb, Sgd
from orchestrator.spec.methods.package_optimizers import AdaBelief, AdaBound, Mars, PackageOptimizer

FLOAT32_BYTES = 4
PACKAGES = {
    "radam": (2, 6, 3),
    "nadam": (2, 3, 2),
    "adagrad": (1, 2, 2),
    "lion": (1, 1, 1),
    "adabelief": (2, 2, 2),
    "adopt": (2, 1, 2),
    "adabound": (2, 1, 1),
    "mars": (3, 3, 3),
    "dadapt_adam": (3, 2, 2),
    "prodigy": (4, 1, 2),
    "muon": (2, 2, 4),
}
"""Moments, and the most tensors in passing: where a step works on one tensor after another, and where on all at once.
Muon keeps one moment of matrices and two of the rest; what is the rest is not known here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerCost:
    """What an optimizer holds for its tensors, all of them in fp32."""

    moments: int
    """Tensors of the size of the parameters that it keeps."""
    in_passing: int
    """Tensors of the size of one parameter that its step computes and drops."""
    at_once: bool
    """Whether the step works on all tensors at once, not on one after another."""
    factored: int = 0
    """Moments that it keeps as a row and a column of each matrix; one of them as a whole of other tensors."""

    def state_bytes(self, shapes: Iterable[Sequence[int]]) -> int:
        """State for what a rank holds of the parameters: tensors of these shapes."""
        return sum(self.moments * prod(shape) + self._factored_numel(shape) for shape in shapes) * FLOAT32_BYTES

    def _factored_numel(self, shape: Sequence[int]) -> int:
        if len(shape) < 2:
            return min(self.factored, 1) * prod(shape)
        return self.factored * prod(shape[:-2]) * (shape[-2] + shape[-1])

    def step_bytes(self, numels: Sequence[int]) -> int:
        """Most that a step computes in passing for tensors of so many elements."""
        return self.in_passing * (sum(numels) if self.at_once else max(numels, default=0)) * FLOAT32_BYTES


ONE_BY_ONE = {
    "lars": (1, 1),
    "lans": (2, 3),
    "novograd": (1, 1),
    "lawn": (2, 3),
    "swats": (2, 3),
    "adagrad_norm": (0, 0),
    "momo": (1, 1),
}
"""Tensors that an optimizer keeps, and those that its step on one computes."""


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


def optimizer_cost(optimizer: OptimizerConfig, *, on_gpu: bool) -> OptimizerCost:
    """What the spec's optimizer holds. torch's own optimizers work on all tensors at once on a GPU."""
    if isinstance(optimizer, Sgd):
        decays = optimizer.weight_decay > 0
        return OptimizerCost(moments=1 if optimizer.momentum else 0, in_passing=int(decays), at_once=on_gpu)
    if isinstance(optimizer, AdamW):
        return OptimizerCost(moments=3 if optimizer.amsgrad else 2, in_passing=1 if on_gpu else 2, at_once=on_gpu)
    if isinstance(optimizer, Adafactor):
        return OptimizerCost(moments=0, in_passing=1, at_once=False, factored=1)
    if isinstance(optimizer, Came):
        return OptimizerCost(moments=1, in_passing=2, at_once=False, factored=2)
    if isinstance(optimizer, PackageOptimizer):
        return _package_cost(optimizer, on_gpu=on_gpu)
    if isinstance(optimizer, Lamb):
        # Where a worker lacks the fused kernels, auto falls back to the eager ones.
        return OptimizerCost(
            moments=2, in_passing=0 if optimizer.implementation in ("auto", "fused") else 2, at_once=False
        )
    moments, in_passing = ONE_BY_ONE[optimizer.name]
    return OptimizerCost(moments=moments, in_passing=in_passing, at_once=False)


def older_state(spec: JobSpec) -> int:
    """Tensors as large as the parameters that older weights add to the optimizer's state, with what goes by them.

    A fixed delay reads them, and so do attacks ahead of their step.
    """
    exchange = spec.exchange
    if not isinstance(exchange, Delayed) or exchange.steps is None:
        return sum(modulator.staleness for modulator in spec.modulators if isinstance(modulator, Conadv))
    name = None if exchange.compensation is None else exchange.compensation.name
    moments = {"gap_aware": 1, "dana_zero": exchange.steps + 1}.get(name or "", 0)
    if isinstance(exchange.compensation, DcAsgd) and exchange.compensation.variance == "adaptive":
        moments = 1
    return exchange.steps + 1 + moments


def _package_cost(optimizer: PackageOptimizer, *, on_gpu: bool) -> OptimizerCost:
    moments, one_by_one, at_once = PACKAGES[optimizer.name]
    bounded = isinstance(optimizer, AdaBelief | AdaBound) and optimizer.ams_bound
    loops = isinstance(optimizer, AdaBelief) and (optimizer.rectify or optimizer.ams_bound)
    if isinstance(optimizer, Mars) and optimizer.mars_type == "shampoo":
        loops, one_by_one = True, 4
    batched = on_gpu and not loops
    return OptimizerCost(moments=moments + bounded, in_passing=at_once if batched else one_by_one, at_once=batched)
