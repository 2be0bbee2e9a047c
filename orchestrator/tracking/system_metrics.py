"""CPU, memory, disk, network and GPU use of one node, sampled by MLflow's own monitor as ``system/<node>/...``."""

from __future__ import annotations

import logging
import threading
from types import TracebackType
from typing import Self

from orchestrator.tracking.client import clean_key, one_line, open_client
from orchestrator.tracking.companion import Companion, receive_settings

STOP_WITHIN_S = 1.0
"""Longest wait for the companion when the job ends, in seconds."""

logger = logging.getLogger(__name__)


class SystemMetrics:
    """Samples one node while the context is open, in a process of its own. Never raises.

    GPUs appear only where ``nvidia-ml-py`` is installed.

    Args:
        uri: address of MLflow; it need not answer now.
        run_id: the MLflow run of the job.
        node_id: name of the node, different on each node of the job.
        every_s: seconds between two samples.
    """

    def __init__(self, uri: str, run_id: str, node_id: str, every_s: float) -> None:
        self._settings = {"uri": uri, "run_id": run_id, "node_id": clean_key(node_id), "every_s": every_s}

    def __enter__(self) -> Self:
        self._companion = Companion("orchestrator.tracking.system_metrics", self._settings)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._companion.stop(STOP_WITHIN_S)


def sample(uri: str, run_id: str, node_id: str, every_s: float, stopped: threading.Event) -> None:
    """Sample until ``stopped`` is set.

    MLflow's monitor ends for good when MLflow once does not answer; here it starts again, at the next step.
    """
    is_out = False
    while not stopped.is_set():
        try:
            _sample_until_outage(uri, run_id, node_id, every_s, stopped)
            is_out = False
        except Exception as error:
            if not is_out:  # one line for each outage
                logger.warning("system metrics of %s pause: %s", node_id, one_line(error))
            is_out = True
        stopped.wait(every_s)


def _sample_until_outage(uri: str, run_id: str, node_id: str, every_s: float, stopped: threading.Event) -> None:
    # Ask first: without an answer the monitor would begin at step 0 again.
    open_client(uri).get_run(run_id)
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    monitor = SystemMetricsMonitor(run_id, sampling_interval=every_s, resume_logging=True, tracking_uri=uri)
    # Set afterwards: MLFLOW_SYSTEM_METRICS_NODE_ID wins over the argument, and would be the same on all nodes.
    monitor.node_id = node_id
    monitor._shutdown_event = stopped  # its own finish() belongs to a thread that it started itself
    monitor.monitor()


if __name__ == "__main__":
    received, stop_asked = receive_settings()
    sample(**received, stopped=stop_asked)
