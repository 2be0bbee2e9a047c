"""What a push over bare Ray can reach at best, and what each part of taking it costs alone."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import ray
import torch
from numpy.typing import NDArray

from orchestrator.core.message_store import is_finite
from orchestrator.core.wire import from_wire, to_wire

CPUS_EACH = 0.1


class Sink:
    """Takes arrays and forgets them."""

    def take(self, array: NDArray[Any]) -> int:
        """Its size: all that a shard would have to do."""
        return len(array)


class Source:
    """Pushes one array to each sink, and the next ones when they are taken."""

    def __init__(self, sizes: list[int]) -> None:
        self.arrays = [np.ones(size, dtype=np.float32) for size in sizes]

    def push(self, sinks: list[Any], times: int) -> None:
        """Push so many times."""
        for _ in range(times):
            ray.get([sink.take.remote(array) for sink, array in zip(sinks, self.arrays, strict=True)])


def pushes_per_s(parameters: int, workers: int, shards: int, times: int) -> float:
    """Pushes of all workers together, side by side."""
    sinks = [ray.remote(num_cpus=CPUS_EACH)(Sink).remote() for _ in range(shards)]
    sizes = [parameters // shards] * shards
    sources = [ray.remote(num_cpus=CPUS_EACH)(Source).remote(sizes) for _ in range(workers)]
    ray.get([source.push.remote(sinks, 2) for source in sources])
    started = time.perf_counter()
    ray.get([source.push.remote(sinks, times) for source in sources])
    elapsed_s = time.perf_counter() - started
    for actor in (*sources, *sinks):
        ray.kill(actor)
    return workers * times / elapsed_s


def parts(parameters: int, times: int) -> dict[str, float]:
    """Median seconds of each step of a push's way, one after the other with nothing beside them."""
    model = torch.zeros(parameters, requires_grad=True)
    model.grad = torch.zeros(parameters)
    optimizer = torch.optim.SGD([model], lr=0.01)
    gradient = torch.ones(parameters)
    array, small = to_wire(gradient, "fp32"), np.ones(1, dtype=np.float32)
    published = ray.put(model.detach().numpy())
    sink = ray.remote(num_cpus=CPUS_EACH)(Sink).remote()

    def take_over() -> None:
        gradient.copy_(torch.from_numpy(ray.get(published)))

    def add() -> None:
        assert model.grad is not None
        model.grad.zero_()
        model.grad.add_(from_wire(array).to(model.grad), alpha=1.0)

    calls: dict[str, Callable[[], Any]] = {
        "worker: take over the weights": take_over,
        "worker: zero the gradient": gradient.zero_,
        "worker: to_wire": lambda: to_wire(gradient, "fp32"),
        "call without an array": lambda: ray.get(sink.take.remote(small)),
        "push, until it is taken": lambda: ray.get(sink.take.remote(array)),
        "shard: is_finite": lambda: is_finite(array),
        "shard: zero and sum": add,
        "shard: optimizer (SGD)": optimizer.step,
        "shard: publish": lambda: ray.put(model.detach().numpy()),
    }
    seconds = {name: _median_s(call, times) for name, call in calls.items()}
    ray.kill(sink)
    return seconds


def _median_s(call: Callable[[], Any], times: int) -> float:
    taken = []
    for _ in range(times + 1):
        started = time.perf_counter()
        result = call()
        taken.append(time.perf_counter() - started)
        del result
    return statistics.median(taken[1:])


def main() -> None:
    """Measure ``cases`` of [parameters, workers, shards, times], as JSON in the first argument; JSON on stdout."""
    cases = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    cpus = 1 + max(workers + shards for _, workers, shards, _ in cases)
    ray.init(address="local", num_cpus=cpus, include_dashboard=False, log_to_driver=False, logging_level="warning")
    sizes = {parameters: times for parameters, _, _, times in cases}
    result = {
        "pushes_per_s": [pushes_per_s(*case) for case in cases],
        "parts": {parameters: parts(parameters, times) for parameters, times in sizes.items()},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
