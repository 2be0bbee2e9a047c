"""A driver's seat in the queue: a thread that reports and keeps the newest answer."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import RayError

from orchestrator.core.errors import OrchestratorError
from orchestrator.schedule.queue.actor import open_queue
from orchestrator.schedule.queue.keeper import REPORT_EVERY_S, Answer, Report
from orchestrator.schedule.queue.values import Request, Use

_ANSWER_TIMEOUT_S = 5.0
"""Shorter than ``keeper.GRACE_S``: whoever waited for an answer when the queue died tells the new one in time."""


class Seat:
    """Waits in the queue, holds a place, and waits again.

    All of Ray is left to a thread of its own, so that the driver's main thread keeps its signals and its clock while a
    queue that has died starts again.

    Args:
        describe: the job as it stands, asked before every report.
    """

    def __init__(self, describe: Callable[[], Request]) -> None:
        self._describe = describe
        self._lock = threading.Lock()
        self._turn = ""
        self._uses: tuple[Use, ...] | None = None
        self._held_since = 0.0
        self._answer: Answer | None = None
        self._error: OrchestratorError | None = None
        self._queue: Any = None
        self._has_news = threading.Event()
        self._is_closed = False
        self._thread = threading.Thread(target=self._keep_reporting, name="queue-seat", daemon=True)

    def wait_again(self) -> None:
        """Give back the place, if there is one, and wait for another; the first call sits down."""
        with self._lock:
            self._turn, self._uses, self._answer = uuid.uuid4().hex, None, None
        self._has_news.set()
        if not self._thread.is_alive():
            self._thread.start()

    def keep(self, uses: tuple[Use, ...]) -> None:
        """Go on with a part of the place, and give back the rest; the next answer confirms it."""
        with self._lock:
            self._turn, self._uses, self._held_since, self._answer = uuid.uuid4().hex, uses, time.time(), None
        self._has_news.set()

    @property
    def answer(self) -> Answer | None:
        """The newest answer of this turn; None before the first.

        Raises:
            OrchestratorError: where the job cannot be described.
        """
        with self._lock:
            if self._error is not None:
                raise self._error
            return self._answer

    def close(self) -> None:
        """Leave the queue. A queue that does not answer notices when the lease is over."""
        self._is_closed = True
        self._has_news.set()
        if self._thread.is_alive():
            self._thread.join(_ANSWER_TIMEOUT_S)

    def _keep_reporting(self) -> None:
        key = None
        while not self._is_closed:
            self._has_news.clear()
            try:
                request = self._describe()
            except OrchestratorError as error:
                with self._lock:
                    self._error = error
                return
            key = request.key
            self._has_news.wait(self._report(request))
        if key is not None and self._queue is not None:
            try:
                ray.get(self._queue.leave.remote(key, self._turn), timeout=_ANSWER_TIMEOUT_S)
            except RayError:
                return  # the lease will be over

    def _report(self, request: Request) -> float:
        """Report once; seconds until the next time."""
        with self._lock:
            report = Report(request=request, turn=self._turn, uses=self._uses, held_since=self._held_since)
        try:
            if self._queue is None:
                self._queue = open_queue()
            answer: Answer = ray.get(self._queue.report.remote(report), timeout=_ANSWER_TIMEOUT_S)
        except (RayError, ValueError):
            self._queue = None  # it may have died for good: then the next report starts another one
            return REPORT_EVERY_S
        with self._lock:
            if report.turn == self._turn:
                self._answer = answer
                if answer.uses not in (None, self._uses):
                    self._held_since = time.time()
                self._uses = answer.uses
        return answer.again_s
