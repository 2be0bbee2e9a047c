"""Which recorded events a person is told while following a job, and in which words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from orchestrator.cli.figures import counted
from orchestrator.core.run_directory import PRUNED

Event = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Notice:
    """One event in words."""

    text: str
    level: Literal["info", "warning", "error"] = "info"


def _connected(event: Event) -> Notice | None:
    if not event.get("oversubscribed"):
        return None
    return Notice(
        f"the workers ask for more than this machine's {event['cpus']:g} CPU cores and will share them", "warning"
    )


def _started(event: Event) -> Notice:
    known = [(event["total_steps"], "step"), (event["total_samples"], "sample")]
    # Phases may be one in steps and one in samples of batches that change: then neither is known.
    length = next((f"{counted(number, noun)} on " for number, noun in known if number is not None), "")
    return Notice(f"training starts: {length}{counted(event['workers'], 'worker')}")


def _resumed(event: Event) -> Notice:
    return Notice(f"resumed from step {event['step']:,} on {counted(event['workers'], 'worker')}")


def _micro_size(event: Event) -> Notice:
    peak, limit = (event[name] / 2**30 for name in ("peak_bytes", "limit_bytes"))
    before = ", as found before" if event["found_before"] else ""
    size = counted(event["micro_size"], "sample")
    return Notice(f"micro-batches of {size} fit: {peak:.2f} of {limit:.2f} GiB{before}")


def _phase(event: Event) -> Notice:
    batch = counted(event["global_size"], "sample")
    return Notice(f"phase {event['phase']} of {event['phases']} starts at step {event['step']:,}: {batch} per step")


def _resized(event: Event) -> Notice:
    workers = counted(event["to"], "worker")
    return Notice(f"goes on with {workers} in place of {event['from']}: {event['why']}")


def _workers_wanted(event: Event) -> Notice:
    batch = counted(event["batch"], "sample")
    return Notice(f"asks for {counted(event['wanted'], 'worker')} for steps of {batch}: {event['reason']}")


def _queued(event: Event) -> Notice | None:
    if "position" not in event:
        return None  # by the command that hands a job over
    return Notice(f"{event['position']} of {event['waiting']} in the queue: {event['reason']}")


def _granted(event: Event) -> Notice:
    passed = ", ahead of jobs that it does not delay" if event["backfilled"] else ""
    return Notice(f"has its place on {counted(len(event['nodes']), 'node')} after {event['waited_s']:.0f} s{passed}")


def _placed(event: Event) -> Notice | None:
    if "script" not in event:
        return None  # a recipe announces its own start
    return Notice(f"{event['script']} starts on {counted(event['workers'], 'worker')}")


def _straggler(event: Event) -> Notice:
    pace = f"{event['ratio']:.1f}x the time of the others since step {event['since_step']:,}"
    return Notice(f"rank {event['worker']} on {event['node']} is slow: {pace}", "warning")


def _straggler_over(event: Event) -> Notice:
    steps = counted(event["num_steps"], "slow step")
    return Notice(f"rank {event['worker']} on {event['node']} keeps up again after {steps}")


def _trial_ended(event: Event) -> Notice:
    ending = PRUNED if event["reason"] == PRUNED else event["phase"]
    message = f": {event['message']}" if event["message"] else ""
    level: Literal["info", "warning"] = "warning" if event["phase"] == "failed" else "info"
    return Notice(f"trial {event['trial']} {ending}{message}", level)


WORDS: dict[str, Callable[[Event], Notice | None]] = {
    "connected": _connected,
    "queued": _queued,
    "granted": _granted,
    "preempted": lambda event: Notice(f"makes room for {event['by']} after step {event['step']:,}", "warning"),
    "resized": _resized,
    "workers_wanted": _workers_wanted,
    "waiting": lambda event: Notice(f"waiting: {event['reason']}"),
    "placed": _placed,
    "started": _started,
    "resumed": _resumed,
    "micro_size": _micro_size,
    "phase": _phase,
    "checkpoint_saved": lambda event: Notice(f"checkpoint saved at step {event['step']:,}"),
    "diverged": lambda event: Notice(f"ends here: {event['message']}", "warning"),
    "straggler": _straggler,
    "straggler_over": _straggler_over,
    "worker_hung": lambda event: Notice(
        f"rank {event['worker']} on {event['node']} does not answer and is replaced", "warning"
    ),
    "restarting": lambda event: Notice(f"{event['message']}; restarting ({event['budget']})", "warning"),
    "gave_up": lambda event: Notice(f"not restarted ({event['budget']})", "warning"),
    "stop_requested": lambda _: Notice("somebody asked for a stop"),
    "trial_started": lambda event: Notice(f"trial {event['trial']} starts: {event['sets']}"),
    "trial_ended": _trial_ended,
    "tracking_outage": lambda event: Notice(f"metrics wait in the run directory: {event['message']}", "warning"),
    "tracking_restored": lambda _: Notice("MLflow answers again, the metrics that waited are sent"),
    "tracking_out_of_reach": lambda event: Notice(event["message"], "warning"),
    "metrics_unsent": lambda event: Notice(
        f"MLflow lacks {counted(event['lines'], 'line')} of metrics.jsonl", "warning"
    ),
}
"""Events that are not in this table are recorded only: the end of a job is told by its result."""


def notice_of(event: Event) -> Notice | None:
    """The event in words; None for events that are only recorded."""
    row = WORDS.get(event["event"])
    return row(event) if row else None
