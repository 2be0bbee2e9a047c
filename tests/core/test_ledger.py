"""The ledger: whoever comes, goes or is late, every chunk is accepted once."""

import random

import pytest

from orchestrator.core.ledger import ChunkLedger

FOREVER = float("inf")


def test_a_chunk_is_accepted_once() -> None:
    ledger = ChunkLedger(2)
    assert [ledger.lease(number, number, FOREVER) for number in range(3)] == [0, 1, None]
    assert ledger.commit(0, 0) == "accepted"
    assert ledger.commit(0, 0) == "duplicate"
    assert (ledger.num_left, ledger.is_complete) == (1, False)
    assert ledger.commit(1, 1) == "accepted"
    assert ledger.is_complete


def test_a_lease_that_ended_is_fenced() -> None:
    ledger = ChunkLedger(1)
    assert ledger.lease(0, 7, until_s=5.0) == 0
    assert ledger.next_expiry() == 5.0
    assert ledger.expire(4.9, oldest_lease=0) == []
    assert ledger.expire(5.0, oldest_lease=0) == [(7, 0)]
    assert ledger.commit(0, 0) == "fenced"
    assert ledger.lease(1, 8, FOREVER) == 0
    assert ledger.commit(0, 0) == "fenced"
    assert ledger.commit(0, 1) == "accepted"
    assert ledger.commit(0, 0) == "duplicate"


def test_leases_that_are_too_old_by_number_end_too() -> None:
    ledger = ChunkLedger(3)
    for number in range(3):
        ledger.lease(number, number, FOREVER)
    assert ledger.next_expiry() is None
    assert ledger.expire(0.0, oldest_lease=2) == [(0, 0), (1, 1)]
    assert [ledger.lease(number, 0, FOREVER) for number in (3, 4, 5)] == [0, 1, None]


def test_what_a_lost_worker_had_is_to_do_again_first() -> None:
    ledger = ChunkLedger(4)
    for number in range(3):
        ledger.lease(number, number % 2, FOREVER)
    ledger.lose(0)
    assert [ledger.lease(number, 1, FOREVER) for number in (3, 4, 5)] == [0, 2, 3]


def test_state_is_what_is_done() -> None:
    ledger = ChunkLedger(6)
    for number in range(6):
        ledger.lease(number, 0, FOREVER)
    for chunk in (0, 1, 3, 5):
        ledger.commit(chunk, chunk)
    assert ledger.state_dict() == {"first": 2, "done": [3, 5]}
    again = ChunkLedger(6, ledger.state_dict())
    assert list(again.done()) == [0, 1, 3, 5]
    assert [again.lease(number, 0, FOREVER) for number in range(3)] == [2, 4, None]


@pytest.mark.parametrize("seed", range(30))
def test_every_chunk_once_whatever_happens(seed: int) -> None:
    choice = random.Random(seed)
    num_chunks = choice.randint(1, 40)
    ledger, accepted = ChunkLedger(num_chunks), list[int]()
    held: list[tuple[int, int, int]] = []  # (lease, worker, chunk), some void
    number, now = 0, 0.0
    while not ledger.is_complete:
        now += choice.random()
        action = choice.random()
        if action < 0.45:
            worker = choice.randrange(4)
            chunk = ledger.lease(number, worker, now + choice.choice([0.5, 3.0, FOREVER]))
            if chunk is not None:
                held.append((number, worker, chunk))
                number += 1
        elif action < 0.8 and held:
            lease, _, chunk = choice.choice(held)  # stays held: a push may come twice
            if ledger.commit(chunk, lease) == "accepted":
                accepted.append(chunk)
        elif action < 0.9:
            ledger.lose(choice.randrange(4))
        elif action < 0.95:
            ledger.expire(now, oldest_lease=0)
        else:
            ledger = ChunkLedger(num_chunks, ledger.state_dict())  # a restart: all leases are void
            held.clear()
    assert sorted(accepted) == list(range(num_chunks))
