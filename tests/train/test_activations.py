"""What a traced backward holds, compared with a count by hand and with the profile of a real one."""

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.profiler import ProfilerActivity, profile

from orchestrator.engines.modules import checkpoint_activations
from orchestrator.spec.job import ActivationCheckpointing
from orchestrator.train.activations import REST, Segment, Trace, trace_backward

SAMPLES, WIDTH, DEPTH = 512, 96, 3


class Blocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))
            for _ in range(DEPTH)
        )
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        for block in self.blocks:
            inputs = inputs + block(inputs)
        return self.head(inputs)


def loss(model: nn.Module, batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    return nn.functional.cross_entropy(model(batch), torch.zeros(len(batch), dtype=torch.int64)), {}


def traced(*, checkpointing: str | None = None, precision=nullcontext) -> list[Segment]:
    fake = FakeTensorMode()
    with fake:
        model = Blocks()
    if checkpointing is not None:
        checkpoint_activations(model, ActivationCheckpointing(policy=checkpointing))
    batch = torch.zeros(SAMPLES, WIDTH)
    return trace_backward(model, list(model.blocks), loss, batch, fake, precision())


def most(segments: list[Segment]) -> int:
    return max(segment.peak for segment in segments)


def test_live_tensors_are_counted_by_their_storage():
    known = torch.zeros(10)
    with Trace([known]) as trace:
        trace.enter(REST)
        first = known + 1  # 40 bytes
        view = first[2:]
        second = torch.cat([view, view])  # 64 bytes
        del first
        trace.enter(0)  # the view keeps the first
        del view
        trace.enter(1)
        known.add_(1)
        del second
        trace.enter(2)
    assert [(s.unit, s.start, s.peak) for s in trace.segments] == [
        (REST, 0, 104),
        (0, 104, 104),
        (1, 64, 64),
        (2, 0, 0),
    ]


def test_units_are_told_apart_forward_and_backward():
    segments = traced()
    forward = [s.unit for s in segments if not s.is_backward and s.unit != REST]
    backward = [s.unit for s in segments if s.is_backward and s.unit != REST]
    assert forward == list(range(DEPTH))
    assert backward == list(reversed(range(DEPTH)))
    gradients = {unit: sum(s.gradients for s in segments if s.unit == unit) for unit in (REST, *range(DEPTH))}
    model = Blocks()
    assert gradients[REST] == sum(p.nbytes for p in model.head.parameters())
    assert {gradients[unit] for unit in range(DEPTH)} == {sum(p.nbytes for p in model.blocks[0].parameters())}


def test_the_trace_is_what_a_real_backward_allocates():
    model, batch = Blocks(), torch.zeros(SAMPLES, WIDTH)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as prof:
        value, _ = loss(model, batch)
        value.backward()
    events = [event for event in prof.profiler.kineto_results.events() if event.name() == "[memory]"]
    level = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        level += event.nbytes()
        peak = max(peak, level)
    assert most(traced()) == pytest.approx(peak, rel=0.01)


def test_checkpointing_holds_less():
    everything, selective, full = (most(traced(checkpointing=policy)) for policy in (None, "selective", "full"))
    assert full < selective < everything
    # One block is computed again, of the others only the inputs are kept.
    of_a_block = (everything - full) / (DEPTH - 1)
    assert full < everything - (DEPTH - 1.5) * of_a_block


def test_autocast_is_heeded():
    narrow = traced(precision=lambda: torch.autocast("cpu", dtype=torch.bfloat16))
    assert most(narrow) < most(traced())


def test_inner_units_return_to_the_outer_one():
    fake = FakeTensorMode()
    with fake:
        model = Blocks()
    units = [model.blocks[0][1], model.blocks[0]]
    segments = trace_backward(model, units, loss, torch.zeros(SAMPLES, WIDTH), fake, nullcontext())
    assert [s.unit for s in segments if not s.is_backward] == [REST, 1, 0, 1, REST]
