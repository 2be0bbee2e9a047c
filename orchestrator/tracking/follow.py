"""The companion of rank 0 that follows ``metrics.jsonl`` and sends what is new to MLflow, until rank 0 is done."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from orchestrator.core.run_directory import RunDirectory
from orchestrator.tracking.client import one_line
from orchestrator.tracking.companion import Companion, receive_settings
from orchestrator.tracking.sender import MetricsSender

MAX_DELAY_S = 30.0
"""Longest pause between two tries in an outage, in seconds."""

logger = logging.getLogger(__name__)


def start_follower(run_directory: RunDirectory, uri: str, run_id: str, flush_every_s: float) -> Companion:
    """Start following in a process of its own; its ``stop`` sends what is left first."""
    settings = {
        "root": str(run_directory.root.absolute()),
        "uri": uri,
        "run_id": run_id,
        "flush_every_s": flush_every_s,
    }
    return Companion("orchestrator.tracking.follow", settings)


def follow(root: str, uri: str, run_id: str, flush_every_s: float, stopped: threading.Event) -> None:
    """Send until ``stopped`` is set and once more after that. An outage and its end become one event each."""
    run_directory = RunDirectory(Path(root))
    sender = MetricsSender(run_directory, uri, run_id)
    delay_s = flush_every_s
    is_out = is_last = False
    while not is_last:
        is_last = stopped.wait(delay_s)
        try:
            while sender.send_next():
                if is_out:
                    _report(run_directory, "tracking_restored", "MLflow takes metrics again")
                is_out, delay_s = False, flush_every_s
        except Exception as error:  # whatever it is, the next look at the file may go better
            if not is_out:
                _report(run_directory, "tracking_outage", one_line(error))
            is_out, delay_s = True, min(2 * delay_s, MAX_DELAY_S)


def _report(run_directory: RunDirectory, event: str, message: str) -> None:
    logger.warning("%s", message)
    try:
        run_directory.event(event, {"message": message})
    except OSError as error:
        logger.warning("events.jsonl cannot be written: %s", error)


if __name__ == "__main__":
    received, stop_asked = receive_settings()
    follow(**received, stopped=stop_asked)
