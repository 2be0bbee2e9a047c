"""What is written down while a job waits for its place."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.core.run_directory import RunDirectory
from orchestrator.schedule.place import Place

_SIGN_OF_LIFE_EVERY_S = 30.0
"""A job on a cluster out of reach counts as lost when its state has not changed for minutes; waiting is not that."""
_EVENT_EVERY_S = 30.0
"""Between two events that say why a job waits: on a busy cluster the numbers change all the time."""


class WaitRecord:
    """Keeps ``state.json`` true to the moment, and puts the turns of a wait into ``events.jsonl``.

    Args:
        directory: of the job.
        place: what the job waits for.
        update_state: merges fields into the state.
    """

    def __init__(self, directory: RunDirectory, place: Place, update_state: Callable[..., object]) -> None:
        self._directory = directory
        self._place = place
        self._update_state = update_state
        self._started = self._told = time.monotonic()
        self._shown: tuple[str, Mapping[str, Any]] | None = None
        self._explained: str | None = None
        self._explained_at = float("-inf")
        self._is_queued = False

    @property
    def waited_s(self) -> float:
        """Seconds since the wait began."""
        return time.monotonic() - self._started

    def follow(self, reason: str) -> None:
        """The job still waits; called several times a second."""
        now, state = time.monotonic(), self._place.state
        if (reason, state) != self._shown or now - self._told > _SIGN_OF_LIFE_EVERY_S:
            self._told, self._shown = now, (reason, state)
            queue = {"queue": state} if state else {}
            self._update_state(phase=self._place.phase, reason="waiting_for_resources", message=reason, **queue)
        if "position" in state and not self._is_queued:
            self._is_queued = True
            self._explain("queued", reason, state)
        elif reason != self._explained and now - self._explained_at > _EVENT_EVERY_S and not self._is_silent(state):
            self._explain("waiting", reason, state)

    def end(self) -> None:
        """The job has its place."""
        if state := self._place.state:
            self._update_state(queue=state)
            self._directory.event("granted", state)

    def _is_silent(self, state: Mapping[str, Any]) -> bool:
        """Whether the queue has not answered yet: nothing is known that an event could tell."""
        return bool(state) and "position" not in state

    def _explain(self, event: str, reason: str, state: Mapping[str, Any]) -> None:
        self._explained, self._explained_at = reason, time.monotonic()
        self._directory.event(event, {"reason": reason, **state})
