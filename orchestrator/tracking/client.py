"""The one door to MLflow: imports it lazily, with settings fit for jobs, and turns its errors into one sentence.

Everything goes through ``MlflowClient`` with an explicit address and run id: the fluent API renames a resumed run,
takes ``MLFLOW_RUN_ID`` out of the environment and creates folders where the process happens to stand.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from orchestrator.core.errors import OrchestratorError, OutOfReachError, UsageError
from orchestrator.tracking.uri import redact

ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",  # seconds; MLflow's own 120 s and 7 retries stall for minutes on a dead server
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # one, for a connection that the server closed while idle
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # stdout of our commands is data
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
"""What MLflow is told unless the user's environment says otherwise. Read by MLflow at import and at each request."""

USER_ERRORS = frozenset(
    {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "INVALID_STATE", "PERMISSION_DENIED", "UNAUTHENTICATED"}
)
"""MLflow's error codes for requests that would fail again; every other failure is an outage."""

MAX_KEY_CHARACTERS = 250
_FORBIDDEN_IN_KEYS = re.compile(r"[^/\w.\- :]")


def open_client(uri: str) -> Any:
    """An ``MlflowClient`` of this address. The first call of a process imports MLflow, which takes some seconds."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


@contextmanager
def mlflow_errors(uri: str, action: str) -> Iterator[None]:
    """Turn what MLflow raises into an error of ours; ``action`` completes "MLflow at ... did not ...".

    Raises:
        UsageError: where the same request would fail again.
        OutOfReachError: where MLflow or its database does not answer.
    """
    try:
        yield
    except OrchestratorError:
        raise
    except ImportError as error:
        raise UsageError(
            f"MLflow cannot use {redact(uri)} here: {error}; install the driver of that database"
        ) from error
    except Exception as error:  # MLflow lets SQLAlchemy's, requests' and its own errors through
        failure = UsageError if getattr(error, "error_code", None) in USER_ERRORS else OutOfReachError
        raise failure(f"MLflow at {redact(uri)} did not {action}: {one_line(error)}") from error


def one_line(error: BaseException) -> str:
    """The first line of an error's text, without passwords, at most 500 characters."""
    text = redact(str(error)).strip() or type(error).__name__
    return text.splitlines()[0][:500]


@lru_cache(maxsize=4096)
def clean_key(name: str) -> str:
    """The nearest name that MLflow takes for a metric or param: letters, digits, ``_ - . : /`` and spaces.

    MLflow reads names as paths, so empty segments are dropped, and ``.`` and ``..`` are replaced.
    """
    key = _FORBIDDEN_IN_KEYS.sub("_", name)[:MAX_KEY_CHARACTERS]
    segments = ("_" * len(segment) if segment in {".", ".."} else segment for segment in key.split("/") if segment)
    return "/".join(segments) or "_"
