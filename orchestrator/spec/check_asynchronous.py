"""What types cannot see of asynchronous training: whether batch, order and length go together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from orchestrator.spec.job import JobSpec
from orchestrator.spec.methods.asynchronous import Asynchronous, Delayed
from orchestrator.spec.problems import Problem, shown
from orchestrator.spec.push_order import OrderedPush, read_order

_FILE = "a CSV file as `simulate delay --write` or a job's pushes.csv has it"


def push_problems(spec: JobSpec, folder: Path) -> Iterator[Problem]:
    """The pushes of an update have equally many samples."""
    if not isinstance(spec.exchange, Asynchronous):
        return
    size, pushes = spec.batch.global_size, spec.exchange.pushes_per_update
    if size % pushes:
        message = f"{size} / {pushes} pushes = {size / pushes:.6g} samples each"
        below = size // pushes * pushes
        legal = f"a multiple of {pushes}: {below} or {below + pushes}" if below else f"a multiple of {pushes}"
        yield Problem("", "batch.global_size", str(size), message, legal)


def order_problems(spec: JobSpec, folder: Path) -> Iterator[Problem]:
    """An order names every push of the training, and only workers that there are."""
    exchange = spec.exchange
    if not isinstance(exchange, Asynchronous | Delayed) or exchange.order is None:
        return
    path = "exchange.order"
    if isinstance(exchange, Asynchronous) and (exchange.max_delay is not None or exchange.max_lead is not None):
        message = "says what comes when, so nothing can be refused or made to wait"
        yield Problem("", path, shown(exchange.order), message, "null, or max_delay and max_lead of null")
    if spec.then:
        message = "is of a training of one phase"
        yield Problem("", path, shown(exchange.order), message, "null, or a job without `then`")
    if spec.train.steps is None and spec.train.samples is None:
        message = "must name every push, and how many there are is not known before the data is read"
        yield Problem("", path, shown(exchange.order), message, "null, or train.steps or train.samples")
        return
    try:
        order = read_order(folder / exchange.order)
    except ValueError as error:
        yield Problem("", path, shown(exchange.order), str(error), _FILE)
        return
    yield from _contents(spec, exchange.order, order)


def _contents(spec: JobSpec, name: str, order: list[OrderedPush]) -> Iterator[Problem]:
    assert isinstance(spec.exchange, Asynchronous | Delayed)  # no other has an order
    path, workers = "exchange.order", spec.resources.num_workers
    pushes = pushes_per_update(spec.exchange, order)
    num_pushes = _pushes_of(spec, pushes)
    if {push.chunk for push in order} != set(range(num_pushes)):
        message = f"names {len(order)} chunks; the training has {num_pushes}, from 0 to {num_pushes - 1}"
        yield Problem("", path, shown(name), message, f"an order of {num_pushes} pushes, each chunk once")
    largest = max((push.worker for push in order), default=0)
    if isinstance(spec.exchange, Asynchronous) and largest >= workers:
        message = f"names worker {largest}; there are {workers} workers, from 0"
        yield Problem("", path, shown(name), message, f"resources.workers of {largest + 1} or more")
    last = order[-1].update if order else 0
    if any(push.update != index // pushes for index, push in enumerate(order)):
        of_the_spec = f"; pushes_per_update is {pushes}" if isinstance(spec.exchange, Asynchronous) else ""
        message = f"has {len(order)} pushes in {last + 1} updates{of_the_spec}"
        yield Problem("", path, shown(name), message, f"an order with {pushes} pushes to an update")


def pushes_per_update(exchange: Asynchronous | Delayed, order: Sequence[OrderedPush]) -> int:
    """What the exchange says, or else the order's first update."""
    if isinstance(exchange, Asynchronous):
        return exchange.pushes_per_update
    return max(1, sum(push.update == 0 for push in order))


def _pushes_of(spec: JobSpec, pushes: int) -> int:
    """Pushes of the whole training, which has a number of steps or samples."""
    if spec.train.steps is not None:
        return spec.train.steps * pushes
    assert spec.train.samples is not None
    return -(-spec.train.samples * pushes // spec.batch.global_size)
