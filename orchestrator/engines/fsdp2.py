"""torch's fully sharded data parallelism (FSDP2): every rank holds some rows of every tensor."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor

from orchestrator.core.collectives import Halves
from orchestrator.core.parts import EngineParts
from orchestrator.engines.base import fill_missing_gradients
from orchestrator.engines.clipping import Clipping
from orchestrator.engines.modules import select_modules
from orchestrator.engines.native import NativeEngine
from orchestrator.engines.precision import DTYPES, Precision
from orchestrator.engines.shown_reduce_scatter import ShownReduceScatter
from orchestrator.spec.methods.engines import Fsdp2


class Fsdp2Engine(NativeEngine):
    """The step on a model that ``fully_shard`` has divided.

    Gradients are summed over ranks, not averaged: losses carry their share of the global batch.

    Args:
        parts: of the job.
        model: divided.
        optimizer: over its parameters.
    """

    def __init__(self, parts: EngineParts, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        super().__init__(
            model,
            optimizer,
            parts.collectives,
            Precision(parts.spec.train.precision, parts.device),
            clipping=Clipping(parts.spec.train),
            groups_of_workers=_is_divided(model),
            module_of=parts.module_of,
        )
        self._units = [module for module in model.modules() if isinstance(module, FSDPModule)]
        self._module_names: dict[nn.Module, str] = {module: name for name, module in model.named_modules()}
        for unit in self._units:
            unit.set_gradient_divide_factor(1.0)
            # gloo cannot scale while it sums, and there is nothing to scale.
            unit.set_force_sum_reduction_for_comms(True)
        self._shows_messages = False
        self._halves: Halves | None = None
        self._watched: set[Tensor] = set()

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[nn.Module]:
        """See the base class."""
        with super().evaluating() as model:
            yield model
        # The root unit stays gathered after a forward, for a backward that does not come.
        for unit in self._units:
            unit.reshard()

    def _watch_gradients(self) -> None:
        if not _is_divided(self.model):
            # Nothing is summed over a group of one: the tensors that gradients arrive at exist inside a forward only.
            self._watched.clear()
            for unit in self._units:
                self._norms.until_finish(unit.register_forward_pre_hook(self._watch_gathered))
            return
        if self._norms.wants_halves and self._halves is None:
            self._halves = self._collectives.halves()
        if not self._shows_messages:
            # From now on: torch has no way to take its own back.
            self._shows_messages = True
            for unit in self._units:
                unit.set_custom_reduce_scatter(ShownReduceScatter(unit, self._norms, lambda: self._halves))
                # A message then always has the same members.
                unit.set_reduce_scatter_unused_params(True, recurse=False)

    def _watch_gathered(self, unit: nn.Module, _arguments: object) -> None:
        """Watch what a unit has just gathered; the tensors of the units inside it are still divided then."""
        prefix = f"{self._module_names[unit]}." if self._module_names[unit] else ""
        gathered = {
            prefix + name: p for name, p in unit.named_parameters() if p.requires_grad and not isinstance(p, DTensor)
        }
        self._norms.watch({name: p for name, p in gathered.items() if p not in self._watched})
        self._watched.update(gathered.values())

    def _begin_backward(self, *, is_last: bool) -> None:
        for unit in self._units:
            unit.set_is_last_backward(is_last)
            unit.set_requires_gradient_sync(is_last, recurse=False)

    def _sum_gradients(self) -> dict[str, Tensor | float]:
        fill_missing_gradients(self._parameters)
        return {}

    def _clear_gradients(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)


def _is_divided(model: nn.Module) -> bool:
    """Whether any gradient is summed over the ranks that share a model; replica groups may have one rank each."""
    return any(
        place.is_shard() and tensor.device_mesh.size(index) > 1
        for tensor in model.parameters()
        if isinstance(tensor, DTensor)
        for index, place in enumerate(tensor.placements)
    )


def build_fsdp2(parts: EngineParts) -> Fsdp2Engine:
    """Divide the model as the spec says and put the engine on it.

    Raises:
        RecipeError: where ``engine.wrap_modules`` names a module that the model does not have.
    """
    assert isinstance(parts.spec.engine, Fsdp2)  # the table of engines leads here by its name
    parts.collectives.broadcast_model_(parts.model, parts.device)
    shard_model(parts.model, parts.spec.engine, device_mesh(parts))
    if not parts.spec.engine.cpu_offload:
        parts.model.to(parts.device)
    return Fsdp2Engine(parts, parts.model, parts.build_optimizer(parts.model))


def device_mesh(parts: EngineParts) -> DeviceMesh:
    """One dimension over all ranks, or (replicate, shard) for hybrid sharding."""
    assert isinstance(parts.spec.engine, Fsdp2)
    replicas, world_size = parts.spec.engine.mesh.replicate, parts.collectives.world_size
    if replicas == 1:
        return init_device_mesh(parts.device.type, (world_size,), mesh_dim_names=("shard",))
    shape = (replicas, world_size // replicas)
    return init_device_mesh(parts.device.type, shape, mesh_dim_names=("replicate", "shard"))


def shard_model(model: nn.Module, config: Fsdp2, mesh: DeviceMesh) -> None:
    """Divide a whole model in place: its units first, then the rest of it."""
    offload = CPUOffloadPolicy(pin_memory=mesh.device_type == "cuda") if config.cpu_offload else OffloadPolicy()
    param_dtype, reduce_dtype = (name and DTYPES[name] for name in (config.param_dtype, config.reduce_dtype))
    policy = MixedPrecisionPolicy(param_dtype=param_dtype, reduce_dtype=reduce_dtype)
    for module in units(model, config):
        fully_shard(
            module,
            mesh=mesh,
            reshard_after_forward=config.reshard_after_forward,
            mp_policy=policy,
            offload_policy=offload,
        )
    fully_shard(model, mesh=mesh, mp_policy=policy, offload_policy=offload)


def units(model: nn.Module, config: Fsdp2) -> list[nn.Module]:
    """The modules that are gathered and freed one by one, innermost first; the model itself takes the rest.

    A module that shares a parameter with the rest of the model stays in the rest: a tensor has one owner.

    Raises:
        RecipeError: where ``wrap_modules`` names a module that the model does not have.
    """
    if config.wrap_min_parameters is not None:
        chosen = _large_modules(model, config.wrap_min_parameters)
    else:
        chosen = list(select_modules(model, config.wrap_modules).values())
    uses = Counter(id(parameter) for module in model.modules() for parameter in module._parameters.values())
    return [module for module in chosen if _owns_its_parameters(module, uses)]


def _owns_its_parameters(module: nn.Module, uses_in_model: Counter[int]) -> bool:
    uses = Counter(id(p) for child in module.modules() for p in child._parameters.values() if p is not None)
    return bool(uses) and all(uses_in_model[parameter] == count for parameter, count in uses.items())


def _large_modules(model: nn.Module, least: int) -> list[nn.Module]:
    """Smallest modules with at least ``least`` parameters that are in no other chosen module, innermost first."""
    chosen: list[nn.Module] = []

    def free_parameters(module: nn.Module) -> int:
        free = sum(p.numel() for p in module._parameters.values() if p is not None)
        free += sum(free_parameters(child) for child in module.children())
        # A ModuleList has no forward of its own to gather anything for.
        if free >= least and module is not model and not isinstance(module, nn.ModuleList | nn.ModuleDict):
            chosen.append(module)
            return 0
        return free

    free_parameters(model)
    return chosen
