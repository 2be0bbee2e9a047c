"""The attempts of a job and what they cost, worked out from ``events.jsonl``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from orchestrator.core.run_directory import TERMINAL_PHASES
from orchestrator.launch.lost import LOST

ENDINGS = {"restarting", "gave_up", "resized", *TERMINAL_PHASES}
"""Events that the driver itself ends an attempt with."""
SILENT_ENDINGS = {LOST, "queued", "placed"}
"""Events that tell of an attempt's end long after it: its driver could say nothing any more."""
PREEMPTED = "preempted"
"""Event of an attempt that is asked to make room for another job."""

Event = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One life of a job's workers, from the moment they had their places."""

    number: int
    workers: int
    placed_at: float
    """Seconds since 1970."""
    ended_at: float | None = None
    """Seconds since 1970; None while it goes on. Where the driver vanished, its last sign of life."""
    from_step: int | None = None
    """Optimizer steps taken before it; None where it took none, and for scripts and sweeps."""
    ending: str = "goes on"
    """The cause of its end, or the phase that it ended in."""
    message: str | None = None
    trial: int | None = None
    """Of a sweep whose trials have workers of their own."""

    def seconds(self, now_s: float) -> float:
        """How long its workers were held, up to now where it goes on."""
        return max(0.0, (now_s if self.ended_at is None else self.ended_at) - self.placed_at)

    def worker_hours(self, now_s: float) -> float:
        """Hours of its workers, added up."""
        return self.workers * self.seconds(now_s) / 3600


def attempts_of(events: Iterable[Event], signs_of_life: Sequence[float] = ()) -> list[Attempt]:
    """All attempts, in their order.

    Args:
        events: of the job, in their order.
        signs_of_life: seconds since 1970 at which something was logged, increasing; where a driver vanished without a
            word, its attempt ended after the last of them, or after its last event.
    """
    attempts: list[Attempt] = []
    last_event_at, preemption = 0.0, None
    for event in events:
        name, time = event["event"], event["time"]
        is_open = bool(attempts) and attempts[-1].ended_at is None
        if name == PREEMPTED:
            preemption = event
        if is_open and name in ENDINGS:
            attempts[-1] = _ended(attempts[-1], event, time)
        elif is_open and preemption and _waits_again(event):
            attempts[-1] = _made_room(attempts[-1], preemption, time)
        elif is_open and name in SILENT_ENDINGS:
            last_sign = max((sign for sign in signs_of_life if sign <= time), default=0.0)
            attempts[-1] = _ended(attempts[-1], event, max(last_event_at, last_sign))
        elif is_open and name in ("started", "resumed"):
            attempts[-1] = replace(attempts[-1], from_step=event["step"])
        if name == "placed":
            preemption = None
            attempts.append(Attempt(number=event["attempt"], workers=event["workers"], placed_at=time))
        last_event_at = time
    return attempts


def _waits_again(event: Event) -> bool:
    """Whether a driver that lives asks for a place, as it does as soon as its attempt has made room.

    The command that resumes a job says ``queued`` too, but knows no position.
    """
    return event["event"] == "granted" or (event["event"] == "queued" and "position" in event)


def _made_room(attempt: Attempt, preemption: Event, ended_at: float) -> Attempt:
    message = f"made room for {preemption['by']}"
    return replace(attempt, ended_at=ended_at, ending=PREEMPTED, message=message)


def _ended(attempt: Attempt, event: Event, ended_at: float) -> Attempt:
    name = LOST if event["event"] in SILENT_ENDINGS else event["event"]
    ending = event.get("cause") or event.get("reason") or name
    return replace(attempt, ended_at=ended_at, ending=ending, message=event.get("message"))
