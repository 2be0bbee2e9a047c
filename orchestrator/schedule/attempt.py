"""One life of a job, from the placement of its processes to their end; here a gang of Ray Train workers."""

from __future__ import annotations

import json
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError, WorkerHealthCheckTimeoutError
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from orchestrator.core.run_directory import RunDirectory
from orchestrator.core.values import Failure
from orchestrator.schedule.policy import first_cause
from orchestrator.schedule.queue.values import Use
from orchestrator.schedule.script_rank import ScriptBackendConfig, run_script_rank
from orchestrator.schedule.worker import run_rank
from orchestrator.spec.job import AnyJobSpec, ScriptJobSpec


@dataclass(frozen=True, slots=True)
class Ended:
    """The attempt ended as it should."""

    outcome: str
    """finished or stopped."""
    message: str
    """One clause for a person."""


def ended(value: dict[str, Any]) -> Ended:
    """What rank 0 returned: a script's words, or the steps of a training."""
    if "message" in value:
        return Ended(value["outcome"], value["message"])
    is_stopped = value["outcome"] == "stopped"
    text = f"stopped at step {value['step']}, checkpoint written" if is_stopped else f"finished {value['step']} steps"
    return Ended(value["outcome"], text)


def last_line(error: Exception) -> str:
    """Ray puts whole tracebacks into its messages; what happened is their last line."""
    return (str(error).strip().splitlines() or [""])[-1]


def _without_note(rank: int, error: Exception) -> Failure:
    """A rank that left no note was killed, or failed before it could write one (an import, the process group)."""
    if isinstance(error, WorkerHealthCheckFailedError | WorkerHealthCheckTimeoutError):
        return Failure(cause="worker_lost", message=f"rank {rank} disappeared", rank=rank, details=str(error))
    message = f"rank {rank} could not start: {type(error).__name__}: {last_line(error)}"
    return Failure(cause="worker_crash", message=message, rank=rank, details=str(error))


class Attempt(ABC):
    """One life of a job in a thread, so that the driver's main thread keeps its signals and its clock.

    Args:
        directory: the job's run directory.
        number: the attempt, from 1.
        first_log: file name of the log that shows that the attempt has its processes.
    """

    def __init__(self, directory: RunDirectory, number: int, *, first_log: str) -> None:
        self._log_folder = directory.rank_log(number, 0).parent
        self._first_log = first_log
        self._result: Ended | Failure | None = None
        self._thread = threading.Thread(target=self._keep_result, name=f"attempt-{number}", daemon=True)

    def start(self) -> None:
        """Place the workers and start training."""
        self._log_folder.mkdir(parents=True, exist_ok=True)
        self._thread.start()

    def wait(self, timeout_s: float) -> Ended | Failure | None:
        """The result, or None where there is none within the time."""
        self._thread.join(timeout_s)
        return None if self._thread.is_alive() else self._result

    @property
    def has_workers(self) -> bool:
        """Whether the first process has started: it opens its log first."""
        return (self._log_folder / self._first_log).exists()

    def _keep_result(self) -> None:
        try:
            self._result = self._run()
        except Exception as error:
            self._result = Failure(cause="infrastructure", message=f"{type(error).__name__}: {error}")

    @abstractmethod
    def _run(self) -> Ended | Failure:
        """Live this life; an exception is a failure of the infrastructure."""

    def _note_of(self, process: str, rank: int | None) -> tuple[int, Failure] | None:
        """What a failed process left beside its log, and when; None where it left nothing."""
        note = self._log_folder / f"failure_{process}.json"
        if not note.exists():
            return None
        failure = Failure(**json.loads(note.read_text(encoding="utf-8")), rank=rank)
        return note.stat().st_mtime_ns, failure


class GangAttempt(Attempt):
    """Runs a Ray Train trainer's ``fit``.

    Ray restarts nothing by itself: every restart is the driver's decision and is written down.

    Args:
        directory: the job's run directory.
        number: the attempt, from 1.
        spec: the job.
        env: environment of the workers.
        rank_arguments: keyword arguments of ``train.rank.main``, which ``run_script_rank`` takes too.
        place: where the workers go; None leaves it to Ray.
    """

    def __init__(
        self,
        directory: RunDirectory,
        number: int,
        spec: AnyJobSpec,
        env: dict[str, str],
        rank_arguments: dict[str, Any],
        place: Sequence[Use] | None = None,
    ) -> None:
        super().__init__(directory, number, first_log="rank_0.log")
        self._num_workers = spec.resources.num_workers
        self._has_script = isinstance(spec, ScriptJobSpec)
        self._trainer = _trainer(spec, str(self._log_folder), env, rank_arguments, place)

    def _run(self) -> Ended | Failure:
        try:
            return ended(self._trainer.fit().return_value)
        except TrainingFailedError as error:
            return self._explain(error)

    def _explain(self, error: TrainingFailedError) -> Failure:
        """Tell a worker that raised, and left a note, from one that disappeared, and left none."""
        lost, noted = [], []
        worker_failures = getattr(error, "worker_failures", {})
        for rank in range(self._num_workers):
            if (note := self._note_of(f"rank_{rank}", rank)) is not None:
                noted.append(note)
            elif rank in worker_failures:
                lost.append(_without_note(rank, worker_failures[rank]))
        failures = [*lost, *(failure for _, failure in sorted(noted, key=itemgetter(0)))]
        if not failures:
            return Failure(cause="infrastructure", message=last_line(error), details=str(error))
        # A script that loses its neighbor fails in its own name; only the order tells which one was the first.
        return failures[0] if self._has_script else first_cause(failures)


def on_nodes(nodes: Iterable[str]) -> list[dict[str, str]] | None:
    """Ray's label selectors that put one process on each of these nodes, in this order; None without nodes."""
    return [{"ray.io/node-id": node} for node in nodes] or None


def _trainer(
    spec: AnyJobSpec, storage: str, env: dict[str, str], rank_arguments: dict[str, Any], place: Sequence[Use] | None
) -> Any:
    """A trainer of Ray's that has the workers run the recipe, with a process group, or the script, without one."""
    resources = spec.resources
    options = {
        "train_loop_config": rank_arguments,
        "scaling_config": ScalingConfig(
            num_workers=resources.num_workers,
            use_gpu=resources.gpus_per_worker > 0,
            resources_per_worker={"CPU": resources.cpus_per_worker, "GPU": resources.gpus_per_worker},
            placement_strategy=resources.placement.upper(),
            label_selector=on_nodes(use.node for use in place or () for _ in range(use.workers)),
        ),
        "run_config": RunConfig(
            name="ray_train",
            storage_path=storage,
            # Else Ray tries for ever to start workers on a node that has died meanwhile.
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=0),
            worker_runtime_env={"env_vars": env} if env else None,
        ),
    }
    if isinstance(spec, ScriptJobSpec):
        return DataParallelTrainer(run_script_rank, backend_config=ScriptBackendConfig(), **options)
    backend = "nccl" if resources.gpus_per_worker else "gloo"
    return TorchTrainer(run_rank, torch_config=TorchConfig(backend=backend), **options)
