"""Engines, exchanges and batch controllers that a spec may name."""

from __future__ import annotations

from typing import ClassVar, Literal

from orchestrator.spec.section import Method, PositiveFloat, Section


class Engine(Section):
    """What every engine declares: the capabilities that methods may require of it."""

    provides: ClassVar[frozenset[str]] = frozenset()
    name: str


class Ddp(Engine):
    """Each worker holds a whole replica; gloo on CPUs, NCCL on GPUs."""

    provides: ClassVar[frozenset[str]] = frozenset(
        {"whole_tensors", "local_gradients", "changing_batch", "uneven_batch"}
    )
    name: Literal["ddp"]


EngineConfig = Ddp


class AllReduce(Method):
    """Gradients are summed over all workers in buckets while the backward pass still runs."""

    requires: ClassVar[frozenset[str]] = frozenset({"local_gradients"})
    name: Literal["all_reduce"]
    bucket_mib: PositiveFloat = 25.0
    """Size of one message in MiB; smaller buckets overlap more, larger ones cost fewer messages."""


ExchangeConfig = AllReduce


class ConstantBatch(Method):
    """The same batch at every step."""

    name: Literal["constant"]


ControllerConfig = ConstantBatch
