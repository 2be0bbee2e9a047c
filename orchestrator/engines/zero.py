"""The step and the state of a model under ZeRO stages 1 to 3."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from orchestrator.core.errors import CheckpointError, UnsupportedLayoutError
from orchestrator.core.layout import Run, ShardLayout, by_partition
from orchestrator.core.parts import EngineParts
from orchestrator.core.protocols import LayerwiseOptimizer, LossFunction, MicroBatch
from orchestrator.core.shards import Piece, SavedState, piece_of
from orchestrator.core.state_naming import (
    MODEL,
    OPTIMIZER,
    create_optimizer_state,
    has_optimizer_state,
    model_tensors,
)
from orchestrator.core.zero_layout import (
    layout_of_partitions,
    own_share,
    prove_layout,
    runs_by_name,
)
from orchestrator.engines.base import EngineBase, choices_of, report_of, set_learning_rate
from orchestrator.engines.clipping import Clipping
from orchestrator.engines.norms import module_norms, squared_norms
from orchestrator.engines.precision import DynamicLossScale, Precision


class ZeroEngine(EngineBase):
    """Owns a DeepSpeed engine whose optimizer steps on flat partitions.

    Args:
        parts: of the job.
        deepspeed_engine: initialized at stage 1, 2 or 3, in fp32.

    Raises:
        UnsupportedLayoutError: where the partitions do not lie as expected.
    """

    def __init__(self, parts: EngineParts, deepspeed_engine: Any) -> None:
        self._engine = deepspeed_engine
        self._zero = deepspeed_engine.optimizer
        self._divides_weights = deepspeed_engine.zero_optimization_stage() == 3
        precision = Precision(parts.spec.train.precision, parts.device)
        super().__init__(
            deepspeed_engine.module, parts.collectives, precision, called=deepspeed_engine, module_of=parts.module_of
        )
        self._clipping = Clipping(parts.spec.train)
        self._zero.unscale_and_clip_grads = self._unscale_and_clip
        self._bound: float | None = None
        self._parts_of_sum: list[Tensor] = []
        self._loss_scale = DynamicLossScale(enabled=parts.spec.train.precision == "fp16")
        self._runs = layout_of_partitions(self._zero, parts.collectives.rank)
        prove_layout(self._runs, parts.collectives)
        self._runs_by_name = runs_by_name(self.model, self._runs)
        self._index_in_partition = {
            name: index for members in by_partition(self._runs_by_name) for index, (name, _) in enumerate(members)
        }
        self._per_parameter_state: frozenset[str] = frozenset()
        if isinstance(self._zero.optimizer, LayerwiseOptimizer):
            self._per_parameter_state = self._zero.optimizer.per_parameter_state
            self._zero.optimizer.attach(ShardLayout(runs=self._runs_by_name, collectives=parts.collectives))

    def forward_backward(self, micro: MicroBatch, loss: LossFunction) -> dict[str, Tensor]:
        """See the base class."""
        self._engine.set_gradient_accumulation_boundary(micro.is_last)
        if self._loss_scale.is_enabled:
            self._zero.override_loss_scale(self._loss_scale.scale)
        value, weighted = self._forward(micro, loss)
        # DeepSpeed averages over ranks; we want the sum.
        self._engine.backward(value * self._collectives.world_size, scale_wrt_gas=False)
        self._norms.count(micro.weight)
        return weighted

    def step(self, lr: float) -> dict[str, Tensor | float]:
        """See the base class."""
        set_learning_rate(self._zero.optimizer, lr)
        self._bound = None
        self._engine.step()
        self._finish_measuring()
        report: dict[str, Tensor | float] = {}
        if self._clipping.is_on:
            report["grad_norm"] = float(self._engine.get_global_grad_norm())
        if self._loss_scale.is_enabled:
            self._loss_scale.update(overflowed=bool(self._zero.overflow))
            report["loss_scale"] = self._loss_scale.scale
        return {**report, **report_of(self._zero.optimizer)}

    def _unscale_and_clip(self, gradients: Any, total_norm: Any) -> None:
        """What DeepSpeed calls for one partition after another, with the partition or its number in stage 3.

        Clipping takes the bound of this step, and the norm of what the partition holds is measured before it.
        """
        if self._norms.is_on:
            self._measure_sums(
                [self._zero.fp32_partitioned_groups_flat[gradients].grad] if self._divides_weights else gradients
            )
        if self._bound is None and self._clipping.is_on:
            self._bound = self._zero.clip_grad = self._clipping.bound(total_norm / self._zero.loss_scale)
        type(self._zero).unscale_and_clip_grads(self._zero, gradients, total_norm)

    def _measure_sums(self, flats: Sequence[Tensor]) -> None:
        for flat in flats:
            module = self._module_of_partition(flat) if self._norms.num_modules > 1 else 0
            norms = module_norms(flat, [(module, flat.numel())], self._norms.num_modules)
            self._parts_of_sum.append(squared_norms(norms))

    def _module_of_partition(self, gradient: Tensor) -> int:
        """A partition is of one group of the optimizer's, and a group of one module."""
        for members in by_partition(self._runs_by_name):
            name, run = members[0]
            if run.flat.grad is gradient:
                return self._norms.module(name)
        raise UnsupportedLayoutError("DeepSpeed has given a partition another gradient than its own.")

    def _finish_measuring(self) -> None:
        scale = self._loss_scale.scale
        parts, self._parts_of_sum = self._parts_of_sum, []
        if self._norms.is_on and not parts:
            # The gradients were not finite, and DeepSpeed has thrown them away.
            shape = (self._norms.num_modules,)
            parts = [torch.full(shape, torch.inf, dtype=torch.float64, device=self._engine.device)]
        self._norms.finish(parts, group_scale=scale * self._collectives.world_size, sum_scale=scale)

    def pieces(self) -> dict[str, Piece]:
        """See the base class."""
        self._share_buffers()
        tensors, _ = model_tensors(self.model)
        pieces = {f"{MODEL}{name}": self._piece(tensor) for name, tensor in tensors.items()}
        for name, run in self._runs_by_name.items():
            for key, value in self._zero.optimizer.state.get(run.flat, {}).items():
                own = value[self._index_in_partition[name]] if key in self._per_parameter_state else value
                pieces[f"{OPTIMIZER}{name}.{key}"] = _state_piece(run, own)
        return pieces

    def _piece(self, tensor: Any) -> Piece:
        run = self._runs.get(tensor)
        if run is not None:
            return Piece(data=run.view(run.flat), start=run.start, shape=run.shape)
        if hasattr(tensor, "ds_tensor"):
            # A frozen parameter of stage 3: divided, but in no partition of the optimizer.
            start, length = own_share(tensor, self._collectives.rank)
            return Piece(data=tensor.ds_tensor.detach()[:length], start=start, shape=tuple(tensor.ds_shape))
        return piece_of(tensor)

    def load(self, saved: SavedState) -> None:
        """See the base class."""
        if has_optimizer_state(saved.names):
            self._create_optimizer_state()
        pieces = self.pieces()
        saved.read(pieces)
        self._prove_equal_counters(pieces)
        self._refresh_weights()

    def _create_optimizer_state(self) -> None:
        optimizer = self._zero.optimizer
        lent = dict(self._lend_partitions(optimizer))
        create_optimizer_state(optimizer)
        for index, partitions in lent.items():
            optimizer.param_groups[index]["params"] = partitions

    def _lend_partitions(self, optimizer: torch.optim.Optimizer) -> Iterator[tuple[int, list[Tensor]]]:
        """Between steps the optimizer of stage 3 has no parameters: DeepSpeed lends it one partition after another."""
        if self._divides_weights:
            owners = self._zero.sub_group_to_group_id
            for index, group in enumerate(optimizer.param_groups):
                yield index, group["params"]
                group["params"] = [
                    flat for i, flat in enumerate(self._zero.fp32_partitioned_groups_flat) if owners[i] == index
                ]

    def _prove_equal_counters(self, pieces: Mapping[str, Piece]) -> None:
        """One partition has one step counter for all its parameters: a checkpoint with several cannot be taken over."""
        counters: dict[tuple[Tensor, str], tuple[str, Tensor]] = {}
        for name, run in self._runs_by_name.items():
            for key in self._zero.optimizer.state.get(run.flat, {}):
                piece = pieces[f"{OPTIMIZER}{name}.{key}"]
                if piece.live is None or key in self._per_parameter_state:
                    continue
                first, value = counters.setdefault((run.flat, key), (name, piece.data))
                if not torch.equal(value, piece.data):
                    raise CheckpointError(
                        f"The checkpoint's {key!r} differs between {first!r} and {name!r}; ZeRO keeps one for both."
                    )

    def _refresh_weights(self) -> None:
        """Let the weights that the model computes with follow the partitions, as after a step."""
        if not self._divides_weights:
            self._zero.update_lp_params()
            return
        for index in range(len(self._zero.fp16_groups)):
            self._zero._reassign_or_swap_out_partitioned_parameters(index)
        if self._zero.persistent_parameters:
            # Small weights stay gathered; without parting with them first they would keep what they had.
            self._zero.persistent_parameters[0].partition(self._zero.persistent_parameters)
            self._zero.persistent_parameters[0].all_gather(self._zero.persistent_parameters)

    def choices(self) -> dict[str, str]:
        """See the base class."""
        return choices_of(self._zero.optimizer)

    def numbers(self) -> dict[str, Any]:
        """See the base class."""
        return {
            "scaler": self._loss_scale.state_dict(),
            "clipping": self._clipping.state_dict(),
            "measured": self._norms.state_dict(),
        }

    def load_numbers(self, state: Mapping[str, Any]) -> None:
        """See the base class."""
        self._loss_scale.load_state_dict(state["scaler"])
        self._clipping.load_state_dict(state["clipping"])
        self._norms.load_state_dict(state.get("measured", {}))


def _state_piece(run: Run, value: Any) -> Piece:
    """The state of one parameter from that of its partition.

    Raises:
        CheckpointError: where the state is neither as long as the partition nor a single number.
    """
    if isinstance(value, Tensor) and value.shape == run.flat.shape:
        return Piece(data=run.view(value), start=run.start, shape=run.shape)
    if isinstance(value, Tensor) and value.dim() == 0:
        # A copy: every parameter of the partition reads its own, and they are compared before one counts.
        return Piece(data=value.detach().clone().view(1), start=0, shape=(), on_all_ranks=True, live=value)
    raise CheckpointError(f"Optimizer state of the form {type(value).__name__} cannot be saved from a flat partition.")
