"""The connection to a Ray cluster's dashboard. The only file of this package that imports Ray."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from orchestrator.core.errors import OutOfReachError, UsageError

ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
CONNECT_TIMEOUT_S = 10.0
REQUEST_TIMEOUT_S = 60.0
TALKATIVE = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
"""Ray's loggers that set their own level."""


def resolve_address(flag: str | None, environ: Mapping[str, str]) -> str:
    """The URL of the cluster's dashboard: flag, else RAY_API_SERVER_ADDRESS, else RAY_ADDRESS.

    Raises:
        UsageError: if there is none, or it is not an http address.
    """
    candidates = {"--address": flag, **{name: environ.get(name) for name in ADDRESS_VARIABLES}}
    given = {source: value for source, value in candidates.items() if value}
    if not given:
        raise UsageError(f"--address: which cluster? Give http://HEAD:8265, or set {ADDRESS_VARIABLES[0]}.")
    source, address = next(iter(given.items()))
    if not address.startswith(("http://", "https://")):
        raise UsageError(f"{source}: {address} is not the dashboard's URL; write http://HEAD:8265.")
    return address.rstrip("/")


def dashboard_here() -> str:
    """URL of the dashboard of the cluster that this process's node belongs to, as its nodes reach it.

    Raises:
        OutOfReachError: where there is no cluster.
    """
    import ray

    try:
        with ray.init(address="auto", log_to_driver=False, logging_level="ERROR") as context:
            return f"http://{context.dashboard_url}"
    except ConnectionError as error:
        raise OutOfReachError(f"No Ray cluster answers here ({error}).") from None


def open_client(address: str) -> Any:
    """Ray's client of a dashboard; errors as of ``ray_errors``."""
    client_class = _timed_client_class()
    with _address_in_environment(address):
        return client_class(address)


@contextmanager
def ray_errors(address: str) -> Iterator[None]:
    """Turn what Ray's client raises into one sentence that names the address and says how to mend it.

    Raises:
        OutOfReachError: where the cluster does not answer, or does not let us in.
    """
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError:
        raise OutOfReachError(
            f"{address}: the Ray cluster asks for a token; set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or "
            "RAY_AUTH_TOKEN_PATH to the cluster's token."
        ) from None
    except (ConnectionError, OSError) as error:
        raise OutOfReachError(f"{address}: no Ray dashboard answers there: {_first_line(error)}") from None
    except (RuntimeError, ValueError) as error:
        raise OutOfReachError(f"{address}: {_first_line(error)}") from None


def as_iterator(texts: AsyncIterator[str]) -> Iterator[str]:
    """An asynchronous iterator as an ordinary one, on an event loop of its own."""
    with asyncio.Runner() as runner:
        while True:
            try:
                yield runner.run(_next(texts))
            except StopAsyncIteration:
                return


async def _next(texts: AsyncIterator[str]) -> str:
    return await anext(texts)


def _timed_client_class() -> type[Any]:
    """Ray's client, whose requests would otherwise wait without limit, and which would tell about every upload."""
    from ray.job_submission import JobSubmissionClient

    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)

    class TimedClient(JobSubmissionClient):  # type: ignore[misc]
        def _do_request(self, method: str, endpoint: str, **arguments: Any) -> Any:
            answer_s = CONNECT_TIMEOUT_S if endpoint == "/api/version" else REQUEST_TIMEOUT_S
            return super()._do_request(method, endpoint, timeout=(CONNECT_TIMEOUT_S, answer_s), **arguments)

    return TimedClient


@contextmanager
def _address_in_environment(address: str) -> Iterator[None]:
    """Ray's client lets this variable win over its argument; for us the argument wins."""
    name = ADDRESS_VARIABLES[0]
    before = os.environ.get(name)
    os.environ[name] = address
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
