"""A simulated asynchronous training as a table and as data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from orchestrator.cli.figures import counted, figure
from orchestrator.cli.output import aligned, emit, emit_fields
from orchestrator.core.stability import largest_stable_rate
from orchestrator.core.staleness import Staleness
from orchestrator.simulate.delay.events import Course
from orchestrator.spec.push_order import OrderedPush

MAX_BINS = 16
"""Lines of the histogram that a person is shown."""
MAX_WORKERS = 16
"""Workers that a person is shown."""
BAR_WIDTH = 40


def emit_course(course: Course | None, order: Sequence[OrderedPush], momentum: float) -> None:
    """Print what the delays are like; of workers (None with a fixed delay) also how much each has done, how fast."""
    seen = _staleness(order)
    num_updates = order[-1].update + 1
    delay = seen.quantile(0.95)
    fields = {
        "pushes": f"{len(order):,} in {counted(num_updates, 'update')}",
        "delay": f"mean {figure(_mean(order))}, p95 {delay}, max {max(seen.counts)} updates",
    }
    if course is not None:
        fields["speed"] = (
            f"{figure(course.speedup)} times the samples of synchronous training in the same time; "
            f"{figure(num_updates / course.seconds)} updates a second"
        )
    fields["stable"] = (
        f"learning rate x curvature below {figure(largest_stable_rate(delay, momentum))} at momentum {momentum:g} and "
        f"the p95 delay; below {figure(largest_stable_rate(0, momentum))} without delay"
    )
    emit_fields(fields)
    emit("")
    emit("\n".join(aligned([("DELAY", "PUSHES", "SHARE", ""), *_bins(seen.counts)])))
    if course is not None:
        emit("")
        _emit_workers(course)


def course_document(course: Course | None, order: Sequence[OrderedPush], momentum: float) -> dict[str, Any]:
    """All of it as data, but for the order itself."""
    seen = _staleness(order)
    delay = seen.quantile(0.95)
    document: dict[str, Any] = {
        "updates": order[-1].update + 1,
        "pushes": len(order),
        "delay": {
            "mean": _mean(order),
            "p95": delay,
            "max": max(seen.counts),
            "counts": {str(value): seen.counts[value] for value in sorted(seen.counts)},
        },
        "momentum": momentum,
        "largest_stable_rate": largest_stable_rate(delay, momentum),
        "largest_stable_rate_synchronous": largest_stable_rate(0, momentum),
    }
    if course is not None:
        document |= {
            "seconds": course.seconds,
            "synchronous_s": course.synchronous_s,
            "speedup": course.speedup,
            "workers": [
                {"accepted": accepted, "refused": refused}
                for accepted, refused in zip(course.accepted, course.refused, strict=True)
            ],
        }
    return document


def _staleness(order: Sequence[OrderedPush]) -> Staleness:
    """The delays of all pushes, counted as an exchange would."""
    seen = Staleness(is_asynchronous=True)
    for push in order:
        seen.observe(push.delay, push.worker)
    return seen


def _mean(order: Sequence[OrderedPush]) -> float:
    return sum(push.delay for push in order) / len(order)


def _bins(counts: Counter[int]) -> list[tuple[str, str, str, str]]:
    """Lines of a histogram from the smallest delay to the largest."""
    least, most = min(counts), max(counts)
    width = -(-(most - least + 1) // MAX_BINS)
    starts = range(least, most + 1, width)
    sums = [sum(counts[delay] for delay in range(start, start + width)) for start in starts]
    return [
        (
            str(start) if width == 1 else f"{start} - {start + width - 1}",
            f"{count:,}",
            f"{count / counts.total():.1%}",
            "#" * round(BAR_WIDTH * count / max(sums)),
        )
        for start, count in zip(starts, sums, strict=True)
    ]


def _emit_workers(course: Course) -> None:
    """How much each worker has done; of many those that have done least."""
    total = sum(course.accepted)
    workers = sorted(range(len(course.accepted)), key=lambda worker: course.accepted[worker])[:MAX_WORKERS]
    rows = [
        (str(w), f"{course.accepted[w]:,}", f"{course.accepted[w] / total:.1%}", f"{course.refused[w]:,}")
        for w in sorted(workers)
    ]
    emit("\n".join(aligned([("WORKER", "PUSHES", "SHARE", "REFUSED"), *rows])))
    if len(workers) < len(course.accepted):
        emit(f"and {counted(len(course.accepted) - len(workers), 'worker')} that did more")
