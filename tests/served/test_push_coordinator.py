"""The coordinator of asynchronous training by itself: events in, leases and updates out, on the test's own clock."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest

from orchestrator.core.errors import DivergedError
from orchestrator.core.served import ChunkReport, Joined, Lease, Lost, Publication, Pushed, RoundRequest, Sender, Update
from orchestrator.exchange.asynchronous.arrivals import AsTheyCome, Ordered
from orchestrator.exchange.asynchronous.coordinator import PushCoordinator
from orchestrator.spec.methods.asynchronous import Asynchronous
from orchestrator.spec.push_order import OrderedPush


def publication(version: int) -> Publication:
    return Publication(version=version, flats=(), unchanging=None)


class Stage:
    """A coordinator whose workers do what the test says."""

    def __init__(
        self,
        *,
        workers: int = 1,
        samples: int = 80,
        order: list[OrderedPush] | None = None,
        step: int = 0,
        **config: Any,
    ) -> None:
        self.leases: dict[int, deque[Lease]] = {}
        self.version = step
        self.coordinator = PushCoordinator(
            Asynchronous(name="asynchronous", **config),
            workers,
            self._assign,
            AsTheyCome() if order is None else Ordered(order),
        )
        request = RoundRequest(
            model=0, phase=0, step=step, position=0, num_samples=samples, num_counted=8, micro_batch_size=None
        )
        self.coordinator.open(request, {})
        self.coordinator.published(publication(step), 0.0)
        self.lives: dict[int, int] = {}

    def _assign(self, worker: int, lease: Lease) -> None:
        self.leases.setdefault(worker, deque()).append(lease)

    def join(self, *workers: int, now: float = 0.0) -> None:
        for worker in workers:
            self.lives[worker] = self.lives.get(worker, -1) + 1
            self.leases[worker] = deque()
            self.coordinator.handle(Joined(self.sender(worker)), now)

    def sender(self, worker: int) -> Sender:
        return Sender(worker=worker, incarnation=self.lives[worker])

    def push(self, worker: int, now: float = 1.0, *, lease: Lease | None = None, **fields: Any) -> Lease:
        done = self.leases[worker].popleft() if lease is None else lease
        version = self.version if done.weights is None else done.weights.version
        given = {"sender": self.sender(worker), "read_version": version, "is_taken": True, **fields}
        report = ChunkReport(weight=1.0, metrics={})
        self.coordinator.handle(
            Pushed(lease=done.number, chunk=done.chunk, seconds=1.0, num_elements=1, report=report, **given), now
        )
        return done

    def take(self, now: float = 1.0) -> Update | None:
        update = self.coordinator.take(now)
        if update is not None:
            self.version += 1
            self.coordinator.published(publication(self.version), now)
        return update

    def given(self, worker: int) -> list[int]:
        return [lease.chunk for lease in self.leases[worker]]


def chunks(update: Update | None) -> list[int]:
    assert update is not None
    return [push.chunk for push in update.pushes]


def test_pushes_are_taken_in_the_order_of_their_arrival() -> None:
    stage = Stage()
    stage.join(0, 1)
    assert stage.take() is None
    stage.push(1)
    stage.push(0)
    first, second = stage.take(), stage.take()
    assert first is not None
    assert second is not None
    assert [chunks(first), chunks(second)] == [[2], [0]]
    assert [first.pushes[0].delay, second.pushes[0].delay] == [0, 1]
    assert first.num_samples == 8


def test_with_overlap_a_worker_has_the_next_lease_before_it_pushes() -> None:
    stage = Stage()
    stage.join(0)
    assert stage.given(0) == [0, 1]
    stage.push(0)
    assert stage.given(0) == [1, 2]
    stage.push(0)  # two of its pushes wait: the shards are behind, and it gets no more than one to compute
    assert stage.given(0) == [2]
    stage.push(0)
    assert stage.given(0) == []
    stage.take()
    assert stage.given(0) == [3]


def test_without_overlap_a_worker_waits_for_its_push_to_be_in_the_weights() -> None:
    stage = Stage(overlap=False)
    stage.join(0)
    assert stage.given(0) == [0]
    stage.push(0)
    assert stage.given(0) == []
    stage.take()
    assert stage.given(0) == [1]


def test_one_worker_makes_an_update_of_several_pushes_without_overlap() -> None:
    stage = Stage(overlap=False, pushes_per_update=2)
    stage.join(0)
    stage.push(0)
    assert stage.given(0) == []
    assert stage.take() is None  # the update waits for a second push, and nobody else is there
    assert stage.given(0) == [1]
    stage.push(0)
    assert chunks(stage.take()) == [0, 1]


def test_an_update_of_all_workers_waits_for_who_has_not_joined_but_not_for_who_hangs() -> None:
    stage = Stage(workers=2, overlap=False, pushes_per_update=2, lease_s=10.0)
    stage.join(0)
    stage.push(0)
    assert stage.take() is None
    assert stage.given(0) == []
    stage.join(1)
    assert stage.given(1) == [1]
    stage.coordinator.tick(11.0)
    assert stage.given(0) == [1]


def test_old_pushes_are_refused_and_their_chunk_is_left_to_others() -> None:
    stage = Stage(max_delay=0, overlap=False)
    stage.join(0, 1)
    late = stage.leases[1][0]
    stage.push(0)
    stage.take()
    stage.push(1, read_version=0)
    assert stage.take() is None
    assert (late.chunk, stage.given(0)) == (1, [2])
    assert stage.given(1) == [3]  # it would be too late with the same chunk again and again
    stage.push(0)
    update = stage.take()
    assert chunks(update) == [2]
    assert update is not None
    assert update.facts["stale_pushes"] == 1
    assert late.number in update.dropped
    assert stage.given(0) == [1]
    stage.push(0)
    assert chunks(stage.take()) == [1]


def test_the_last_chunk_is_left_to_a_worker_that_is_asked_later() -> None:
    stage = Stage(max_delay=0, overlap=False, samples=16)
    stage.join(0, 1)
    stage.push(1)
    stage.take()
    stage.push(0, read_version=0)
    assert stage.take() is None
    assert (stage.given(0), stage.given(1)) == ([], [0])


def test_a_worker_that_waits_for_slower_ones_is_left_nothing() -> None:
    stage = Stage(max_delay=0, max_lead=1, overlap=False, samples=24)
    stage.join(0, 1)
    late = stage.leases[1][0]
    stage.push(0)
    stage.take()
    stage.push(0)
    stage.take()
    stage.push(1, read_version=0)
    assert stage.take() is None
    assert stage.given(0) == []
    assert stage.given(1) == [late.chunk]


def test_a_chunk_is_not_left_to_others_that_are_not_there() -> None:
    stage = Stage(max_delay=0, overlap=False, samples=16)
    stage.join(0, 1)
    late = stage.leases[1][0]
    stage.push(0)
    stage.take()
    stage.coordinator.handle(Lost(stage.sender(0)), 1.0)
    stage.push(1, read_version=0)
    assert stage.take() is None
    assert stage.given(1)[-1] == late.chunk == 1
    stage.push(1, lease=stage.leases[1][-1])
    assert chunks(stage.take()) == [1]


def test_the_fast_wait_for_the_slow_within_max_lead() -> None:
    stage = Stage(max_lead=1, overlap=False)
    stage.join(0, 1)
    for _ in range(2):
        stage.push(0)
        stage.take()
    assert stage.given(0) == []  # two ahead of worker 1
    stage.push(1)
    stage.take()
    assert stage.given(0) != []


def test_nobody_waits_for_the_dead_or_for_who_is_late() -> None:
    stage = Stage(max_lead=0, overlap=False, lease_s=10.0)
    stage.join(0, 1, 2)
    stage.push(0)
    stage.take()
    assert stage.given(0) == []
    stage.coordinator.handle(Lost(stage.sender(1)), 2.0)
    assert stage.given(0) == []  # worker 2 is not there yet either
    stage.coordinator.tick(10.0)
    assert stage.given(0) != []


def test_a_push_of_a_lease_that_has_run_out_is_fenced() -> None:
    stage = Stage(samples=8, overlap=False, lease_s=10.0)
    stage.join(0, 1)
    assert (stage.given(0), stage.given(1)) == ([0], [])
    assert stage.coordinator.next_check() == 10.0
    stage.coordinator.tick(10.0)
    assert stage.given(1) == [0]
    stage.push(0, now=11.0)
    assert stage.take() is None
    stage.push(1, now=12.0)
    update = stage.take()
    assert chunks(update) == [0]
    assert update is not None
    assert update.facts["fenced_pushes"] == 1


def test_the_same_push_twice_counts_once() -> None:
    stage = Stage(samples=16, overlap=False)
    stage.join(0)
    lease = stage.push(0)
    stage.push(0, lease=lease)
    assert chunks(stage.take()) == [0]
    assert stage.take() is None
    stage.push(0)
    update = stage.take()
    assert chunks(update) == [1]
    assert update is not None
    assert update.facts["duplicate_pushes"] == 1


def test_a_push_of_a_former_life_is_fenced() -> None:
    stage = Stage(samples=8, overlap=False)
    stage.join(0)
    old, old_sender = stage.leases[0][0], stage.sender(0)
    stage.coordinator.handle(Lost(old_sender), 1.0)
    stage.join(0)
    stage.push(0, lease=old, sender=old_sender)
    assert stage.take() is None
    stage.push(0)
    assert chunks(stage.take()) == [0]


def test_a_phases_last_update_takes_what_is_left() -> None:
    stage = Stage(samples=22, pushes_per_update=2, overlap=False)  # chunks of 4: 4, 4, 4, 4, 4, 2
    stage.join(0, 1, 2)
    sizes = []
    for _ in range(3):
        for worker in [w for w in range(3) if stage.given(w)]:
            stage.push(worker)
        while (update := stage.take()) is not None:
            sizes.append(update.num_samples)
            assert sum(push.share for push in update.pushes) == pytest.approx(1.0)
    assert sizes == [8, 8, 6]


def test_gradients_that_are_never_finite_end_the_training() -> None:
    stage = Stage(overlap=False)
    stage.join(0, 1, 2)
    for worker in (0, 1, 2, 0, 1):
        stage.push(worker, is_taken=False)
    with pytest.raises(DivergedError, match="not finite after step 0"):
        stage.push(2, is_taken=False)


def test_one_chunk_that_is_never_finite_ends_the_training_too() -> None:
    stage = Stage(overlap=False)
    stage.join(0, 1)
    for _ in range(2):
        assert stage.leases[0][0].chunk == 0
        stage.push(0, is_taken=False)
        stage.push(1)
        stage.take()
    with pytest.raises(DivergedError, match="samples 0 to 7 of the phase"):
        stage.push(0, is_taken=False)


def test_an_order_is_kept_whoever_is_first() -> None:
    order = [OrderedPush(0, 1, 2, 0), OrderedPush(1, 0, 0, 0), OrderedPush(2, 1, 1, 1)]
    stage = Stage(samples=24, order=order)
    stage.join(0, 1)
    assert (stage.given(0), stage.given(1)) == ([0], [2])
    stage.push(0)
    assert stage.take() is None
    stage.push(1)
    assert chunks(stage.take()) == [2]
    assert stage.given(1) == [1]
    lease = stage.leases[1][0]
    assert lease.weights is not None
    assert lease.weights.version == 1
    assert chunks(stage.take()) == [0]
    stage.push(1)
    update = stage.take()
    assert chunks(update) == [1]
    assert update is not None
    assert update.pushes[0].delay == 1


def test_under_an_order_a_new_life_does_what_the_last_one_had_not_pushed() -> None:
    order = [OrderedPush(0, 0, 0, 0), OrderedPush(1, 0, 1, 0), OrderedPush(2, 0, 2, 1)]
    stage = Stage(samples=24, order=order)
    stage.join(0)
    stage.push(0)
    stage.coordinator.handle(Lost(stage.sender(0)), 1.0)
    assert chunks(stage.take()) == [0]
    stage.join(0)
    assert stage.given(0) == [1, 2]
    stage.push(0)
    assert chunks(stage.take()) == [1]
    stage.push(0)
    assert chunks(stage.take()) == [2]
