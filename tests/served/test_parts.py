"""The small parts of the served topology, each by itself."""

import itertools
import threading
import time

import numpy as np
import pytest
import torch
from torch import nn

from orchestrator.core.errors import RecipeError
from orchestrator.core.flat_shards import FlatShards, balance
from orchestrator.core.mailbox import Mailbox
from orchestrator.core.message_store import MessageStore, is_finite
from orchestrator.core.served import Assignment, MessageKey, Sender
from orchestrator.core.wire import from_wire, to_wire
from orchestrator.spec.batch_arithmetic import share, weighted_share


@pytest.mark.parametrize("count", [0, 1, 7, 48, 1000])
@pytest.mark.parametrize("num_shares", [1, 3, 8])
def test_equal_weights_share_as_ranks_do(count: int, num_shares: int) -> None:
    for index in range(num_shares):
        assert weighted_share(count, index, (5,) * num_shares) == share(count, index, num_shares)


def test_weighted_shares_cover_everything_in_proportion() -> None:
    weights = (2, 2, 1, 1, 1)
    for count in range(60):
        bounds = [weighted_share(count, index, weights) for index in range(5)]
        assert bounds[0][0] == 0
        assert bounds[-1][1] == count
        assert all(before[1] == after[0] for before, after in itertools.pairwise(bounds))
        for (start, stop), weight in zip(bounds, weights, strict=True):
            assert abs(stop - start - count * weight / 7) < 1


def test_shards_are_balanced_and_the_same_everywhere() -> None:
    sizes = [100, 90, 50, 40, 30, 10]
    owners = balance(sizes, 3)
    assert owners == balance(sizes, 3)
    loads = [sum(size for size, owner in zip(sizes, owners, strict=True) if owner == shard) for shard in range(3)]
    assert loads == [100, 120, 100]  # the largest first, each to the least so far


def test_parameters_live_in_the_flat_arrays() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2))
    before = [p.detach().clone() for p in model.parameters()]
    shards = FlatShards(model, 2)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    assert sum(flat.numel() for flat in shards.weights) == sum(p.numel() for p in before)
    for flat in shards.weights:
        flat.zero_()
    assert all(bool((p == 0).all()) for p in model.parameters())
    gradients = shards.point_gradients()
    model(torch.ones(4, 3)).sum().backward()
    assert sum(float(flat.sum()) for flat in gradients) == pytest.approx(
        sum(float(p.grad.sum()) for p in model.parameters())
    )


def test_models_that_cannot_be_laid_out_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"exchange.shards is 3, but the model has 2 trainable tensors"):
        FlatShards(nn.Linear(2, 2), 3)
    mixed = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).double())
    with pytest.raises(RecipeError, match=r"of the types torch.float32, torch.float64"):
        FlatShards(mixed, 1)
    with pytest.raises(RecipeError, match=r"holds bfloat16 tensors"):
        FlatShards(nn.Linear(2, 2).bfloat16(), 1)


def test_messages_keep_their_numbers_on_the_way() -> None:
    flat = torch.tensor([1.0, -2.5, 3.0e-5, 65536.0])
    assert torch.equal(from_wire(to_wire(flat, "fp32")), flat)
    assert torch.equal(from_wire(to_wire(flat, "bf16")), flat.bfloat16())


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("value", "finite"), [(0.0, True), (3e38, True), (-1e-30, True), (np.nan, False), (np.inf, False), (-np.inf, False)]
)
def test_messages_that_are_not_finite_are_seen(dtype: str, value: float, finite: bool) -> None:
    flat = torch.ones(100)
    flat[37] = value
    assert is_finite(to_wire(flat, dtype)) is finite


def key(job: int, worker: int, slot: int = 0) -> MessageKey:
    return MessageKey(sender=Sender(worker=worker, incarnation=0), job=job, slot=slot)


def test_the_store_drops_what_is_decided_and_what_comes_too_late() -> None:
    store = MessageStore()
    message = np.ones(3, dtype=np.float32)
    assert store.put(key(5, 0), message)
    assert store.put(key(6, 1, slot=2), message)
    assert not store.put(key(6, 2), message * np.float32("nan"))
    store.decide(5)
    assert store.put(key(5, 3), message)  # late: nobody waits for it, and it is no mistake
    assert len(store) == 1
    assert np.array_equal(store.get(6, 1, 2), message)
    # Jobs may be decided out of order.
    store.put(key(4, 0), message)
    assert len(store) == 2
    store.decide(4)
    store.decide(6)
    assert len(store) == 0


def assignment(index: int) -> Assignment:
    return Assignment(round_index=index, tasks=(), work={}, chunk_weights=(1,))


def test_a_mailbox_holds_the_newest_assignment_only() -> None:
    mailbox = Mailbox()
    mailbox.put(assignment(0))
    mailbox.put(assignment(2))
    mailbox.put(assignment(1))  # overtaken on the way
    taken = mailbox.take()
    assert taken is not None
    assert taken.round_index == 2
    assert not mailbox.is_stale()
    threading.Timer(0.05, mailbox.put, [assignment(3)]).start()
    started = time.monotonic()
    mailbox.sleep(20.0)
    assert time.monotonic() - started < 10
    assert mailbox.is_stale()
    assert mailbox.take() == assignment(3)
    mailbox.close()
    assert mailbox.is_stale()
    assert mailbox.take() is None
