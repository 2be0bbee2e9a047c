"""What types cannot see of a range of workers: who can be divided anew, and which numbers do not go with the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from orchestrator.spec.elastic import is_elastic, with_workers, worker_numbers
from orchestrator.spec.job import JobSpec, WorkerRange
from orchestrator.spec.methods.asynchronous import Asynchronous
from orchestrator.spec.methods.controllers import Goodput
from orchestrator.spec.methods.sources import HuggingFaceSource
from orchestrator.spec.problems import Problem, shown

Check = Callable[[JobSpec, Path], Iterator[Problem]]


def range_problems(spec: JobSpec, folder: Path) -> Iterator[Problem]:
    """Only what does not depend on the number of workers can go on with another one."""
    workers = spec.resources.workers
    if not isinstance(workers, WorkerRange):
        return
    value, exchange, source = shown(workers.model_dump(exclude_none=True)), spec.exchange, spec.data.source
    if exchange.topology == "served":
        if isinstance(exchange, Asynchronous):
            message = "the workers of exchange: asynchronous come and go one by one as it is, without a restart"
        else:
            message = f"exchange: {exchange.name} assigns the parts of a batch to a fixed number of workers"
        yield Problem("", "resources.workers", value, message, f"a number with exchange: {exchange.name}")
    if isinstance(source, HuggingFaceSource) and source.streaming:
        message = "a stream goes on with the number of workers that its positions were saved for"
        yield Problem("", "resources.workers", value, message, "a number, or data.source.streaming: false")


def wish_problems(spec: JobSpec, folder: Path) -> Iterator[Problem]:
    """One rule says how many workers are asked for."""
    workers, controller = spec.resources.workers, spec.batch.controller
    if not isinstance(workers, WorkerRange) or workers.samples_per_worker is None:
        return
    if isinstance(controller, Goodput) and controller.min_utility is not None:
        path, value = "resources.workers.samples_per_worker", str(workers.samples_per_worker)
        message = "batch.controller goodput asks for as many workers as pay"
        yield Problem("", path, value, message, "null, or batch.controller.min_utility: null")


def for_each_number(check: Check, spec: JobSpec, folder: Path) -> Iterator[Problem]:
    """What a check finds with any of the job's numbers of workers, each field once.

    What is wrong with some numbers only is told with all of these, in the words that it has for the largest.
    """
    if not is_elastic(spec) or spec.exchange.topology == "served":  # the latter is told by `range_problems`
        yield from check(with_workers(spec, spec.resources.max_workers), folder)
        return
    found = {number: list(check(with_workers(spec, number), folder)) for number in worker_numbers(spec)}
    told = set()
    for problems in reversed(found.values()):
        for problem in problems:
            if all(problem in others for others in found.values()):
                if problem not in told:
                    yield problem
                told.add(problem)
            elif problem.path not in {other.path for other in told}:
                numbers = [number for number, others in found.items() if problem.path in {p.path for p in others}]
                told.add(problem)
                yield replace(problem, message=f"with {numbers_text(numbers)} workers: {problem.message}")


def numbers_text(numbers: Sequence[int]) -> str:
    """Increasing numbers as people write them: ``1, 3 to 5``."""
    # Numbers that follow each other differ by as much as their places.
    stretches = (list(stretch) for _, stretch in groupby(enumerate(numbers), key=lambda item: item[1] - item[0]))
    ends = ((stretch[0][1], stretch[-1][1]) for stretch in stretches)
    return ", ".join(str(first) if first == last else f"{first} to {last}" for first, last in ends)
