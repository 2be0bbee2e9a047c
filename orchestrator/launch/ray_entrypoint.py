"""What a Ray Job runs, and in which environment: values only, no Ray."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping

from orchestrator.core.environment import own_environment
from orchestrator.core.errors import UsageError
from orchestrator.core.run_directory import RunDirectory
from orchestrator.launch.local import DRIVER_MODULE
from orchestrator.spec.job import AnyJobSpec
from orchestrator.tracking.uri import redact

STOP_GRACE_S = 120
"""Seconds between the first interrupt and Ray's SIGKILL, unless ``env.RAY_JOB_STOP_WAIT_TIME_S`` says otherwise."""


_HAS_EVERYTHING = "import importlib.util, orchestrator; assert importlib.util.find_spec('ray')"
"""Fails in a Python that sees this package's folder but not what it needs; looks for Ray without importing it."""


def entrypoint(run_directory: RunDirectory) -> str:
    """The shell command of the Ray Job.

    It takes the first Python that knows this package: the one on the cluster's path, else the one of this command,
    which is right where both run from one installation. ``exec`` makes the driver the process that Ray interrupts;
    ``tee -i`` survives the interrupt and keeps a copy of the output in the run directory.
    """
    root = shlex.quote(str(run_directory.root))
    log = shlex.quote(str(run_directory.driver_log))
    not_shared = shlex.quote(f"{run_directory.root} is not there: the storage must be a folder that all nodes share.")
    is_shared = f"if ! test -d {root}; then echo {not_shared} >&2; exit 5; fi"
    return _bash([is_shared, *_in_its_python(f"-m {DRIVER_MODULE} {root} > >(exec tee -ia {log}) 2>&1")])


def module_entrypoint(module: str, *arguments: str) -> str:
    """The shell command of a Ray Job that runs a module of this package, by the Python that ``entrypoint`` takes."""
    return _bash(_in_its_python(f"-m {module} {shlex.join(arguments)}"))


def _in_its_python(arguments: str) -> list[str]:
    return [
        f"for python in python {shlex.quote(sys.executable)}; do",
        f'  if "$python" -P -c "{_HAS_EVERYTHING}" 2>/dev/null; then',
        f'    exec "$python" -P {arguments}',
        "  fi",
        "done",
        "echo orchestrator is not installed on the node that runs the driver. >&2",
        "exit 5",
    ]


def _bash(lines: list[str]) -> str:
    return f"exec bash -c {shlex.quote(chr(10).join(lines))}"


def runtime_environment(spec: AnyJobSpec, environ: Mapping[str, str]) -> dict[str, str]:
    """Variables of the Ray Job. Everybody on the cluster can read them, so passwords have to be asked for.

    Raises:
        UsageError: if the tracking URI of the environment has a password and ``env`` does not name the variable, or
            a null value of ``env`` is not supplied.
    """
    own = own_environment(spec, environ)
    uri = environ.get("MLFLOW_TRACKING_URI", "")
    if spec.tracking.uri is None and "MLFLOW_TRACKING_URI" not in own and redact(uri) != uri:
        raise UsageError(
            "tracking.uri: MLFLOW_TRACKING_URI carries a password, which users of the cluster could read; add "
            "`MLFLOW_TRACKING_URI: null` under env to send it all the same."
        )
    return {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_GRACE_S), **own}
