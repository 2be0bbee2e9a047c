"""How fast does the shared queue decide, and how long do jobs wait under it?

1. Speed: 10,000 jobs wait for 1,000 nodes; again and again one ends, another comes, and the queue decides.
2. Waiting: a synthetic trace (Poisson arrivals, log-normal run times, GPU counts that are powers of two) on 32 nodes of
   8 GPUs, under plain first-come and under the queue. Nobody knows run times beforehand, and the queue uses none.

Seconds are CPU seconds of this process, so that what else runs on the machine counts as little as possible.

    python -m benchmarks.shared_queue --seeds 5
"""

from __future__ import annotations

import argparse
import heapq
import platform
import random
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import numpy as np

from orchestrator.schedule.queue.core import SharedQueue
from orchestrator.schedule.queue.fit import layout_of
from orchestrator.schedule.queue.nodes import Nodes
from orchestrator.schedule.queue.values import UNIT, Demand, Granted, NodeState, Preempt, Quota, Request

HEADER = "| trace | policy | mean wait, min | p99 wait, min | urgent: mean | urgent: p99 | GPUs in use | preempted |"
NODES, GPUS, CPUS = 32, 8, 96
GPU_WEIGHTS = (0.35, 0.2, 0.15, 0.12, 0.1, 0.05, 0.03)
"""Of jobs with 1, 2, 4, ... 64 GPUs."""
MEDIAN_MIN, SIGMA = 30.0, 1.5
LOAD = 0.85
"""GPU minutes asked for per GPU minute."""
RESTART_MIN = 2.0
"""What a preempted job needs to be where it was; its checkpoint loses it no step."""
JOBS = 5000


@dataclass(slots=True)
class Job:
    """One job of a trace. Times in minutes."""

    request: Request
    arrival: float
    left: float
    waiting_since: float = 0.0
    waited: float = 0.0
    started: float = 0.0
    life: int = 0


def trace(seed: int, *, cpu_share: float = 0.0, urgent_share: float = 0.0) -> list[Job]:
    """Jobs in the order of their arrival."""
    rng = random.Random(seed)
    mean_gpus = sum(weight * 2**k for k, weight in enumerate(GPU_WEIGHTS))
    mean_min = MEDIAN_MIN * float(np.exp(SIGMA**2 / 2))
    rate = LOAD * NODES * GPUS / (mean_gpus * mean_min) / (1 - cpu_share)
    jobs, now = [], 0.0
    for number in range(JOBS):
        now += rng.expovariate(rate)
        gpus = 2 ** rng.choices(range(len(GPU_WEIGHTS)), GPU_WEIGHTS)[0]
        demand = Demand(gpus, 8 * UNIT, UNIT)
        if rng.random() < cpu_share:
            demand = Demand(2 ** rng.randrange(4), 8 * UNIT)
        priority = 1 if rng.random() < urgent_share else 0
        request = Request(
            key=f"j{number}", name=f"j{number}", demand=demand, submitted=now, priority=priority, preemptible=True
        )
        jobs.append(Job(request, now, rng.lognormvariate(np.log(MEDIAN_MIN), SIGMA)))
    return jobs


def empty_nodes(num_gpu: int = NODES, num_cpu: int = 0) -> list[NodeState]:
    """Nodes that nobody uses."""
    states = [NodeState(f"g{k}", CPUS * UNIT, GPUS * UNIT, CPUS * UNIT, GPUS * UNIT) for k in range(num_gpu)]
    return states + [NodeState(f"c{k}", 64 * UNIT, 0, 64 * UNIT, 0) for k in range(num_cpu)]


class FirstCome:
    """The plain rule: whoever is first waits until everything fits, and all others wait behind."""

    def __init__(self) -> None:
        self.nodes = Nodes()
        self.nodes.refresh(empty_nodes())
        self._line: list[Request] = []

    def submit(self, request: Request, now: float) -> None:
        """Go to the end of the line."""
        self._line.append(request)

    def release(self, key: str) -> None:
        """Give a place back."""
        self.nodes.give_back(key)

    def decide(self, now: float) -> Iterable[Granted | Preempt]:
        """Start jobs from the front of the line as long as they fit."""
        decisions = []
        while self._line and (layout := layout_of(self._line[0].demand, self.nodes.free)) is not None:
            request = self._line.pop(0)
            uses = self.nodes.uses_of(layout)
            self.nodes.take(request.key, request.demand, uses)
            decisions.append(Granted(request.key, uses, 0.0, False))
        return decisions


class NeverAsked(SharedQueue):
    """The shared queue among jobs that cannot leave their places."""

    def submit(self, request: Request, now: float) -> None:
        """See ``SharedQueue``."""
        super().submit(replace(request, preemptible=False), now)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a trace came to. Minutes."""

    waits: list[float]
    urgent: list[float]
    usage: float
    """Share of the GPUs that were in use until the last arrival."""
    preempted: int


def play(jobs: Sequence[Job], queue: FirstCome | SharedQueue) -> Outcome:
    """Live through a trace."""
    if isinstance(queue, SharedQueue):
        queue.refresh(empty_nodes())
    by_key = {job.request.key: job for job in jobs}
    ends: list[tuple[float, str, int]] = []
    arrivals = iter(jobs)
    coming, num_preempted, gpu_min = next(arrivals, None), 0, 0.0
    last_arrival = jobs[-1].arrival
    while coming is not None or ends:
        if coming is not None and (not ends or coming.arrival <= ends[0][0]):
            now, job = coming.arrival, coming
            coming = next(arrivals, None)
            job.waiting_since = now
            queue.submit(job.request, now)
        else:
            now, key, life = heapq.heappop(ends)
            job = by_key[key]
            if life != job.life:
                continue
            queue.release(key)
            gpu_min += _gpu_minutes(job, now, last_arrival)
        again = True
        while again:
            again = False
            for decision in queue.decide(now):
                job = by_key[decision.key]
                if isinstance(decision, Granted):
                    job.waited += now - job.waiting_since
                    job.started = now
                    heapq.heappush(ends, (now + job.left, job.request.key, job.life))
                else:
                    again = True
                    num_preempted += 1
                    gpu_min += _gpu_minutes(job, now, last_arrival)
                    job.left = max(job.left - (now - job.started), 0.0) + RESTART_MIN
                    job.life, job.waiting_since = job.life + 1, now
                    queue.release(job.request.key)
                    queue.submit(job.request, now)
    waits = [job.waited for job in jobs]
    urgent = [job.waited for job in jobs if job.request.priority]
    return Outcome(waits, urgent, gpu_min / (NODES * GPUS * last_arrival), num_preempted)


def _gpu_minutes(job: Job, now: float, until: float) -> float:
    return job.request.demand.total_gpu / UNIT * max(0.0, min(now, until) - job.started)


def waiting_rows(seeds: Sequence[int]) -> list[str]:
    """The second table."""
    traces: dict[str, dict[str, float]] = {
        "GPU jobs only": {},
        "30 % CPU jobs": {"cpu_share": 0.3},
        "30 % CPU jobs, 5 % urgent": {"cpu_share": 0.3, "urgent_share": 0.05},
    }
    policies: dict[str, Callable[[], FirstCome | SharedQueue]] = {
        "first come": FirstCome,
        "queue, nobody preempted": NeverAsked,
        "queue": SharedQueue,
    }
    rows = []
    for name, options in traces.items():
        for policy, kind in policies.items():
            outcomes = [play(trace(seed, **options), kind()) for seed in seeds]
            cells = [
                spread([statistics.mean(outcome.waits) for outcome in outcomes]),
                spread([float(np.quantile(outcome.waits, 0.99)) for outcome in outcomes]),
                spread([statistics.mean(outcome.urgent) for outcome in outcomes if outcome.urgent]),
                spread([float(np.quantile(outcome.urgent, 0.99)) for outcome in outcomes if outcome.urgent]),
                f"{statistics.mean(outcome.usage for outcome in outcomes):.2f}",
                f"{statistics.mean(outcome.preempted for outcome in outcomes):.0f}",
            ]
            rows.append(f"| {name} | {policy} | {' | '.join(cells)} |")
            print(rows[-1], flush=True)
    return rows


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation over seeds; a dash where there is nothing."""
    if not values:
        return "-"
    return f"{statistics.mean(values):.1f} +- {statistics.stdev(values) if len(values) > 1 else 0.0:.1f}"


def busy_request(rng: random.Random, number: int, *, preemptible: bool) -> Request:
    """A job of the speed test: many shapes, three priorities, fifty owners with quotas."""
    workers = 2 ** rng.choice((0, 0, 0, 1, 1, 2, 3, 3, 4, 5, 6))
    owner = f"owner{rng.randrange(50)}"
    if rng.random() < 0.3:
        demand = Demand(workers, rng.choice((1, 2, 4)) * UNIT, 0, rng.choice(("pack", "spread", "strict_spread")))
    else:
        placement = rng.choice(("pack", "pack", "spread", "strict_pack" if workers <= GPUS else "pack"))
        demand = Demand(workers, rng.choice((4, 8, 12)) * UNIT, UNIT, placement)
    return Request(
        key=f"j{number}",
        name=f"j{number}",
        demand=demand,
        submitted=float(number),
        priority=rng.choice((0, 0, 0, 1, 2)),
        owner=owner,
        account=owner,
        quota=Quota(gpu=400 * UNIT),
        preemptible=preemptible,
    )


def speed_row(*, preemptible: bool, rounds: int, waiting: int = 10_000) -> str:
    """One row of the first table."""
    rng, queue, number = random.Random(0), SharedQueue(), 0
    queue.refresh(empty_nodes(600, 400))
    while len(queue.waiting) < waiting:
        queue.submit(busy_request(rng, number, preemptible=preemptible), number)
        number += 1
        if number % 500 == 0:
            queue.decide(number)
    seconds, num_granted, num_asked = [], 0, 0
    for _ in range(rounds):
        ended = rng.choice(sorted(queue.running))
        request = busy_request(rng, number, preemptible=preemptible)
        number += 1
        began = time.process_time()
        queue.release(ended)
        queue.submit(request, number)
        decisions = queue.decide(number)
        seconds.append(time.process_time() - began)
        num_granted += sum(isinstance(decision, Granted) for decision in decisions)
        asked = [decision.key for decision in decisions if isinstance(decision, Preempt)]
        num_asked += len(asked)
        for key in asked:
            again = queue.running[key].request
            queue.release(key)
            queue.submit(again, number)
    rates = f"{rounds / sum(seconds):,.0f} | {(num_granted + num_asked) / sum(seconds):,.0f}"
    p99 = f"{1000 * float(np.quantile(seconds, 0.99)):.1f}"
    kind = "yes" if preemptible else "no"
    shapes = len(queue.waiting.shapes)
    return f"| {kind} | {len(queue.waiting):,} | {len(queue.running):,} | {shapes} | {rates} | {p99} | {num_asked:,} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=2000)
    options = parser.parse_args()
    speed = [speed_row(preemptible=preemptible, rounds=options.rounds) for preemptible in (False, True)]
    print(*speed, sep="\n", flush=True)
    rows = waiting_rows(range(options.seeds))
    page = Path(__file__).with_name(f"shared_queue_2-core-cpu_{date.today().isoformat()}.md")
    page.write_text(
        f"""# The shared queue

`python -m benchmarks.shared_queue --seeds {options.seeds} --rounds {options.rounds}`, {date.today().isoformat()}, \
{platform.machine()}, 2 cores, Python {platform.python_version()}, NumPy {np.__version__}. One thread; CPU seconds.

## Decisions per second

10,000 jobs of 50 owners wait for 1,000 nodes (600 with 8 GPUs). In each round one job ends, one comes, and the queue
decides whoever can start, and who makes room. A decision is a start or a request to make room.

| preemption | waiting | running | shapes | rounds/s | decisions/s | p99 of a round, ms | asked to make room |
|---|---|---|---|---|---|---|---|
{chr(10).join(speed)}

## Waiting

{NODES} nodes of {GPUS} GPUs and {CPUS} CPUs, {JOBS:,} jobs per seed, Poisson arrivals at a load of {LOAD} of the GPUs,
log-normal run times (median {MEDIAN_MIN:g} min, sigma {SIGMA}), 1 to 64 GPUs with 8 CPUs each. CPU jobs have 1 to 8
workers of 8 CPUs. A preempted job loses {RESTART_MIN:g} min. Mean and standard deviation over {options.seeds} seeds.
First come knows no priorities. The wait of a preempted job is the sum of its waits.

{HEADER}
|---|---|---|---|---|---|---|---|
{chr(10).join(rows)}

Where all jobs want the same GPUs, the queue is first come to the minute: without run times no job may pass the head
that takes what the head waits for. What it wins, CPU jobs win, which pass on CPUs that no GPU needs, and urgent ones. A
preempted job leaves at once here; a real one first finishes its step and saves.
""",
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
