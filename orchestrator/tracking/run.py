"""The MLflow run of a job: opened once when the job is created, reopened by each attempt, finished by the driver."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orchestrator.core.errors import OutOfReachError, UsageError
from orchestrator.tracking.client import clean_key, mlflow_errors, open_client
from orchestrator.tracking.uri import check_reachable, redact, sqlite_path

RUN_STATUS = {"succeeded": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}
"""Phase of a job that has ended -> status of its MLflow run."""

EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
"""Makes MLflow's pages open on model training instead of generative applications."""

MAX_PER_REQUEST = 100
"""Params or tags that MLflow takes in one request."""
MAX_PARAM_CHARACTERS = 6000
MAX_TAG_CHARACTERS = 8000
_SECRET_NAME = re.compile(r"(?i)^env\..*(token|secret|password|key|credential)")

logger = logging.getLogger(__name__)


def open_run(
    uri: str,
    experiment: str,
    name: str,
    tags: Mapping[str, str],
    params: Mapping[str, str],
    artifact_root: Path | None = None,
    timeout_s: float = 60.0,
) -> str:
    """Create the run of a new job, with its experiment and, for sqlite, its database; return the run's id.

    Safe against other jobs that do the same at once.

    Args:
        uri: address of MLflow.
        experiment: name of the experiment.
        name: name of the run.
        tags: of the run.
        params: flat, as ``flatten`` makes them; they cannot be changed later.
        artifact_root: folder for the artifacts of a new experiment where no server decides; None leaves it to MLflow.
        timeout_s: longest wait for another job that is preparing the database, and for each network operation.

    Raises:
        UsageError: for an address that cannot be used or an experiment that was deleted.
        OutOfReachError: where MLflow does not answer.
    """
    check_reachable(uri, timeout_s)
    location = artifact_root.absolute().as_uri() if artifact_root and not uri.startswith("http") else None
    with _database_lock(uri, timeout_s), mlflow_errors(uri, "open a run"):
        client = open_client(uri)
        experiment_id = _find_or_create_experiment(client, experiment, location)
        run_id = str(client.create_run(experiment_id, run_name=name).info.run_id)
    set_tags(uri, run_id, tags)
    log_params(uri, run_id, params)
    return run_id


def reopen_run(uri: str, run_id: str) -> None:
    """Mark the run as running again, for another attempt; its name stays.

    Raises:
        UsageError: where the run was deleted or never existed.
        OutOfReachError: where MLflow does not answer.
    """
    with mlflow_errors(uri, f"reopen run {run_id}"):
        open_client(uri).update_run(run_id, status="RUNNING")


def finish_run(uri: str, run_id: str, phase: str, end_time_s: float | None = None) -> None:
    """Give the run the status of the job's last phase; the time is in seconds since 1970, None is now.

    Raises:
        ValueError: for a phase in which a job has not ended.
        UsageError: where the run was deleted or never existed.
        OutOfReachError: where MLflow does not answer.
    """
    if phase not in RUN_STATUS:
        raise ValueError(f"Invalid phase value: {phase}. Must be one of {', '.join(RUN_STATUS)}.")
    end_time_ms = None if end_time_s is None else int(end_time_s * 1000)
    with mlflow_errors(uri, f"finish run {run_id}"):
        open_client(uri).set_terminated(run_id, RUN_STATUS[phase], end_time_ms)


def log_params(uri: str, run_id: str, params: Mapping[str, str]) -> tuple[str, ...]:
    """Log flat params; return the names of those whose value was too long and is cut, visibly, at its end.

    Raises:
        UsageError: where a param has another value already; MLflow never changes one.
        OutOfReachError: where MLflow does not answer.
    """
    cut = tuple(name for name, value in params.items() if len(value) > MAX_PARAM_CHARACTERS)
    if cut:
        logger.warning("values beyond %d characters are cut: %s", MAX_PARAM_CHARACTERS, ", ".join(cut))
    pairs = list({clean_key(name): _shortened(value, MAX_PARAM_CHARACTERS) for name, value in params.items()}.items())
    with mlflow_errors(uri, "log params"):
        client = open_client(uri)
        from mlflow.entities import Param

        for start in range(0, len(pairs), MAX_PER_REQUEST):
            client.log_batch(run_id, params=[Param(*pair) for pair in pairs[start : start + MAX_PER_REQUEST]])
    return cut


def set_tags(uri: str, run_id: str, tags: Mapping[str, str]) -> None:
    """Set tags, replacing those of the same name: facts that change from attempt to attempt go here.

    Raises:
        UsageError: where the run was deleted or never existed.
        OutOfReachError: where MLflow does not answer.
    """
    pairs = list({clean_key(name): _shortened(value, MAX_TAG_CHARACTERS) for name, value in tags.items()}.items())
    with mlflow_errors(uri, "set tags"):
        client = open_client(uri)
        from mlflow.entities import RunTag

        for start in range(0, len(pairs), MAX_PER_REQUEST):
            client.log_batch(run_id, tags=[RunTag(*pair) for pair in pairs[start : start + MAX_PER_REQUEST]])


def log_artifact(uri: str, run_id: str, path: Path, folder: str | None = None) -> None:
    """Upload one file, into ``folder`` of the run's artifacts.

    Raises:
        UsageError: where the run was deleted or never existed.
        OutOfReachError: where MLflow or its artifact store does not answer.
    """
    with mlflow_errors(uri, f"store {path.name}"):
        open_client(uri).log_artifact(run_id, str(path), folder)


def flatten(values: Mapping[str, Any]) -> dict[str, str]:
    """Nested values as params: dotted names, values as YAML would show them, no secrets.

    Lists of plain values stay one param; lists of mappings are numbered. Passwords inside addresses, and variables
    under ``env`` that are named like secrets, become ``***``.
    """
    return dict(_leaves("", values))


def _leaves(path: str, value: Any) -> Iterator[tuple[str, str]]:
    items: list[tuple[str, Any]] = []
    if isinstance(value, Mapping):
        items = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, list | tuple) and any(isinstance(item, Mapping | list | tuple) for item in value):
        items = [(str(index), item) for index, item in enumerate(value)]
    if items:
        for key, item in items:
            yield from _leaves(f"{path}.{key}" if path else key, item)
    elif path:
        text = value if isinstance(value, str) else json.dumps(value, default=str)
        yield path, "***" if value is not None and _SECRET_NAME.match(path) else redact(text)


def _shortened(text: str, max_characters: int) -> str:
    if len(text) <= max_characters:
        return text
    note = f" ... [cut, {len(text)} characters]"
    return text[: max_characters - len(note)] + note


def _find_or_create_experiment(client: Any, name: str, location: str | None) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifact_location=location, tags=EXPERIMENT_TAGS))
        except MlflowException:
            found = client.get_experiment_by_name(name)
            if found is None:  # not another job's doing
                raise
    if found.lifecycle_stage == "deleted":
        raise UsageError(
            f"The MLflow experiment {name!r} was deleted; restore it with `mlflow experiments restore "
            f"--experiment-id {found.experiment_id}` or name another one under tracking.experiment"
        )
    return str(found.experiment_id)


@contextmanager
def _database_lock(uri: str, timeout_s: float) -> Iterator[None]:
    """One process at a time creates and migrates a sqlite database: MLflow itself leaves a half-made one otherwise."""
    path = sqlite_path(uri)
    if path is None:
        yield
        return
    import filelock

    lock = filelock.FileLock(f"{path}.lock", timeout=timeout_s)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except filelock.Timeout as error:
        raise OutOfReachError(f"Another process still prepares {path} after {timeout_s:g} s") from error
    except OSError as error:
        raise OutOfReachError(f"The tracking database {path} cannot be created: {error}") from error
    try:
        yield
    finally:
        lock.release()
