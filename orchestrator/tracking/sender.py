"""Carries ``metrics.jsonl`` to MLflow: each point once, in batches, through outages and crashes.

How each point gets there once, although MLflow appends a second point where a step is logged twice:

* the steps of a metric grow along the file, and they are sent in that order;
* so what MLflow has of a metric is everything up to the last step that MLflow holds for it;
* MLflow is asked for those last steps (one request) before the first batch of an attempt and after a failed one,
  which may have arrived all the same; only later steps are sent.

An outage costs no memory, because what is left stays in the file.
"""

from __future__ import annotations

import logging
import time

from orchestrator.core.errors import OrchestratorError
from orchestrator.core.run_directory import RunDirectory
from orchestrator.tracking.client import one_line, open_client
from orchestrator.tracking.cursor import Cursor
from orchestrator.tracking.metrics_file import Point, is_line_start, read_stretch
from orchestrator.tracking.uri import check_reachable

MAX_POINTS = 500
"""Points of one request: MLflow takes 1,000, but no more than 1 MB, and a name may have 250 characters."""
PROBE_S = 5.0
"""Longest wait for a first sign of life in ``replay``, in seconds."""

logger = logging.getLogger(__name__)


class MetricsSender:
    """Sends what lies beyond the cursor. Each process that sends has its own."""

    def __init__(self, run_directory: RunDirectory, uri: str, run_id: str) -> None:
        self._run_directory = run_directory
        self._uri = uri
        self._run_id = run_id
        cursor = Cursor.load(run_directory, run_id)
        # A worker of an earlier attempt that outlived it may have saved its cursor after the file was trimmed.
        fits = is_line_start(run_directory.metrics_file, cursor.offset)
        self._cursor = cursor if fits else cursor.advanced(0, cursor.step)
        self._stored_steps: dict[str, int] | None = None

    def send_next(self) -> bool:
        """Send the next batch and save the cursor; False where nothing was left.

        Raises:
            Exception: whatever MLflow raises; the batch is tried again by the next call.
        """
        stretch = read_stretch(self._run_directory.metrics_file, self._cursor.offset, MAX_POINTS)
        if stretch.end == self._cursor.offset:
            return False
        client = open_client(self._uri)
        stored_steps = self._stored_steps
        if stored_steps is None:
            stored_steps = {m.key: m.step for m in client.get_run(self._run_id).data.to_proto().metrics}
        # Until this batch is acknowledged, what MLflow holds is not known: a request that failed may have arrived.
        self._stored_steps = None
        new = _later_points(stretch.points, stored_steps)
        from mlflow.entities import Metric

        for start in range(0, len(new), MAX_POINTS):
            client.log_batch(self._run_id, metrics=[Metric(*point) for point in new[start : start + MAX_POINTS]])
        self._stored_steps = stored_steps
        self._cursor = self._cursor.advanced(stretch.end, max(stretch.step, self._cursor.step))
        self._cursor.save(self._run_directory)
        return True

    def count_unsent(self) -> int:
        """Lines beyond the cursor."""
        path = self._run_directory.metrics_file
        if not path.exists():
            return 0
        with path.open("rb") as stream:
            stream.seek(self._cursor.offset)
            return sum(line.endswith(b"\n") for line in stream)


def replay(run_directory: RunDirectory, uri: str, run_id: str, timeout_s: float) -> int:
    """Send what an outage or a crash left behind; return how many lines are still unsent. Never raises.

    Tries again and again until everything is sent or ``timeout_s`` seconds have passed.
    """
    sender = MetricsSender(run_directory, uri, run_id)
    deadline = time.monotonic() + timeout_s
    delay_s = 0.5
    while (left_s := deadline - time.monotonic()) > 0 and sender.count_unsent():
        try:
            check_reachable(uri, min(left_s, PROBE_S))
            while time.monotonic() < deadline and sender.send_next():
                pass
        except Exception as error:
            logger.warning("%s", error if isinstance(error, OrchestratorError) else one_line(error))
            time.sleep(max(0.0, min(delay_s, deadline - time.monotonic())))
            delay_s = min(2 * delay_s, PROBE_S)
    return sender.count_unsent()


def _later_points(points: list[Point], stored_steps: dict[str, int]) -> list[Point]:
    """The points beyond what is stored; ``stored_steps`` moves on to them."""
    new = []
    for point in points:
        if point.step > stored_steps.get(point.key, -1):
            stored_steps[point.key] = point.step
            new.append(point)
    return new
