"""Memory of a process that holds a whole replica: under ``ddp``, DeepSpeed's stage 0, and a worker for shards."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.launch.memory.model import Memory, Model, peak
from orchestrator.launch.memory.step import FLOAT32_BYTES, OptimizerCost, Setting

MESSAGE_NUMEL = 500_000_000
"""Elements that DeepSpeed sums over the workers at once where nothing is divided."""


def ddp_peak(model: Model, setting: Setting) -> Memory:
    """Peak of a rank under ``ddp``.

    With P the bytes of weights and buffers, G those of the gradients, S of the optimizer's state, A what the backward
    adds at most (the micro-batch and one fresh gradient included) and T what the optimizer's step computes in passing::

        peak = P + G + S + max(A, T)

    The gradients are slices of the buckets that are sent, allocated once: messages need no memory of their own.
    """
    replica = _replica(model, setting.optimizer)
    gradients = Memory(gradients=sum(p.num_bytes for p in model.trainable))
    backward = setting.backward(model)
    activations = backward.batch_bytes + max(segment.peak for segment in backward.segments)
    return peak(
        (
            replica + gradients + Memory(activations=activations),
            replica + gradients + Memory(optimizer=_step_bytes(model, setting.optimizer)),
        )
    )


def served_peak(model: Model, setting: Setting, num_models: int) -> Memory:
    """Peak of a worker that computes for shards.

    They hold the optimizer's state, so with the letters of ``ddp_peak``::

        peak = models x (P + G) + A

    Messages and published weights lie in the node's shared memory, which Ray counts apart.
    """
    weights = sum(p.num_bytes for p in model.parameters) + model.buffer_bytes
    gradients = sum(p.num_bytes for p in model.trainable)
    backward = setting.backward(model)
    return Memory(
        parameters=num_models * weights,
        gradients=num_models * gradients,
        activations=backward.batch_bytes + max(segment.peak for segment in backward.segments),
    )


def undivided_peak(model: Model, setting: Setting) -> Memory:
    """Peak of a rank under DeepSpeed's stage 0.

    Gradients come and go with every step: until the last backward has ended only those that have arrived are there.
    Then they are copied into messages of ``MESSAGE_NUMEL`` elements, a constant of DeepSpeed::

        peak = P + S + max(A + the gradients so far, G + message, G + T)
    """
    replica = _replica(model, setting.optimizer)
    gradients = sum(p.num_bytes for p in model.trainable)
    message = min(gradients, MESSAGE_NUMEL * FLOAT32_BYTES)
    moments = [
        Memory(gradients=gradients, communication=message),
        Memory(gradients=gradients, optimizer=_step_bytes(model, setting.optimizer)),
        *_arriving(model, setting, gradients),
    ]
    return replica + peak(moments)


def _arriving(model: Model, setting: Setting, gradients: int) -> Iterator[Memory]:
    backward = setting.backward(model)
    arrived = 0
    for segment in backward.segments:
        if setting.num_micro_batches > 1:
            yield Memory(gradients=gradients, activations=backward.batch_bytes + segment.peak)
        else:
            yield Memory(gradients=arrived, activations=backward.batch_bytes) + segment.together
        arrived += segment.gradients


def _replica(model: Model, optimizer: OptimizerCost) -> Memory:
    weights = sum(p.num_bytes for p in model.parameters) + model.buffer_bytes
    return Memory(parameters=weights, optimizer=optimizer.state_bytes(p.shape for p in model.trainable))


def _step_bytes(model: Model, optimizer: OptimizerCost) -> int:
    return optimizer.step_bytes([p.numel for p in model.trainable])
