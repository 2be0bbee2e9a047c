"""What becomes of the workers' times: a line in the run directory for each step, an event where a worker is slow."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.core.protocols import Tracker
from orchestrator.core.run_directory import RunDirectory
from orchestrator.core.stragglers import StragglerDetector
from orchestrator.core.worker_times import StepTimes, WorkerTimesWriter


class WorkerWatch:
    """Takes all workers' times of each step of one attempt, in the one process that has them. Never raises.

    Args:
        run_directory: of the job.
        tracker: told of ``straggler`` and ``straggler_over``.
        nodes: the node of each worker.
        last_step: where training goes on from.
    """

    def __init__(self, run_directory: RunDirectory, tracker: Tracker, nodes: Sequence[str], *, last_step: int) -> None:
        self._tracker = tracker
        self._nodes = nodes
        self._writer = WorkerTimesWriter(run_directory.worker_times_file, last_step=last_step)
        self._detector = StragglerDetector(len(nodes))

    @property
    def slowest_worker_ratio(self) -> float | None:
        """How many times longer than the others the slowest worker takes; None for a lone worker or unknown times."""
        return max(self._detector.ratios, default=None) if len(self._nodes) > 1 else None

    def facts(self) -> dict[str, float]:
        """The ratio as a metric."""
        ratio = self.slowest_worker_ratio
        return {} if ratio is None else {"slowest_worker_ratio": ratio}

    def observe(self, times: StepTimes) -> None:
        """Take the times of the next step."""
        self._writer.add(times)
        for found in self._detector.update(times.step, times.seconds, times.elements):
            fields = {"worker": found.worker, "node": self._nodes[found.worker], "ratio": round(found.ratio, 3)}
            fields |= {"since_step": found.since_step, "num_steps": found.num_steps}
            self._tracker.event(found.name, fields)

    def flush(self) -> None:
        """Hand the lines that wait to the operating system."""
        self._writer.flush()
