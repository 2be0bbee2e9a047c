"""CPU, memory, disk, network and GPU use of one node, sampled by MLflow's own monitor as ``system/<node>/...``."""

from __future__ import annotations

import logging
import threading
from types import TracebackType
from typing import Self

from orchestrator.tracking.client import clean_key, one_line, open_client

STOP_WITHIN_S = 1.0
"""Longest wait for the monitor when the job ends, in seconds."""

logger = logging.getLogger(__name__)


class SystemMetrics:
    """Samples one node while the context is open. Never raises, and costs the training thread nothing.

    MLflow's monitor ends for good when MLflow once does not answer; here it is started again, at the next step.
    GPUs appear only where ``nvidia-ml-py`` is installed.

    Args:
        uri: address of MLflow; it need not answer now.
        run_id: the MLflow run of the job.
        node_id: name of the node, different on each node of the job.
        every_s: seconds between two samples.
    """

    def __init__(self, uri: str, run_id: str, node_id: str, every_s: float) -> None:
        self._uri = uri
        self._run_id = run_id
        self._node_id = clean_key(node_id)
        self._every_s = every_s
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="system-metrics", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join(STOP_WITHIN_S)

    def _watch(self) -> None:
        is_out = False
        while not self._stopped.is_set():
            try:
                self._monitor_until_it_ends()
                is_out = False
            except Exception as error:
                if not is_out:  # one line for each outage
                    logger.warning("system metrics of %s pause: %s", self._node_id, one_line(error))
                is_out = True
            self._stopped.wait(self._every_s)

    def _monitor_until_it_ends(self) -> None:
        # Ask first: without an answer the monitor would begin at step 0 again.
        open_client(self._uri).get_run(self._run_id)
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        monitor = SystemMetricsMonitor(
            self._run_id, sampling_interval=self._every_s, resume_logging=True, tracking_uri=self._uri
        )
        # Set afterwards: MLFLOW_SYSTEM_METRICS_NODE_ID wins over the argument and would be the same on all nodes.
        monitor.node_id = self._node_id
        monitor._shutdown_event = self._stopped  # its own finish() waits for a request to MLflow
        monitor.monitor()
