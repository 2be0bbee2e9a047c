"""What `orchestrator doctor` asks a Ray cluster: whether it answers, which versions it has and what its clock says."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.cli.diagnose import OK, OUT_OF_REACH, PROBLEM, WARNING, Finding
from orchestrator.core.errors import OrchestratorError, OutOfReachError

if TYPE_CHECKING:
    from orchestrator.launch.dashboard import Answer
    from orchestrator.launch.ray_jobs import RayJobs

LARGE_SKEW_S = 5.0
"""Signs of life are times of files on a shared folder, and the queue's order is one of times."""
NTP = "timedatectl set-ntp true, on the machine that is wrong"


def check_addresses(flag: str | None, environ: Mapping[str, str]) -> Finding | None:
    """Of two addresses in the environment one is silently taken; None where there are no two."""
    api, ray = environ.get("RAY_API_SERVER_ADDRESS"), environ.get("RAY_ADDRESS")
    if flag or not (api and ray):
        return None
    if not ray.startswith(("http://", "https://")):
        return Finding("ray address", OK, f"jobs go to RAY_API_SERVER_ADDRESS; RAY_ADDRESS={ray} is for Ray itself")
    if api.rstrip("/") == ray.rstrip("/"):
        return Finding("ray address", OK, f"both variables name {api}")
    message = f"RAY_API_SERVER_ADDRESS={api} wins over RAY_ADDRESS={ray}"
    return Finding("ray address", WARNING, message, "unset the one that is not meant")


def check_reach(cluster: RayJobs) -> Finding:
    """The cluster answers and lets us in."""
    try:
        cluster.connect()
    except OutOfReachError as error:
        if "asks for a token" in str(error):
            mend = "export RAY_AUTH_MODE=token RAY_AUTH_TOKEN=...; on the head `ray get-auth-token` prints it"
        else:
            mend = "ray start --head --dashboard-host=0.0.0.0, `orchestrator cluster up`, or correct the address"
        return Finding("ray cluster", OUT_OF_REACH, str(error), mend)
    return Finding("ray cluster", OK, f"{cluster.address} answers")


def open_cluster(flag: str | None, environ: Mapping[str, str]) -> RayJobs | Finding:
    """The cluster that commands would talk to, or what is wrong with its address."""
    from orchestrator.launch.ray_connection import ADDRESS_VARIABLES
    from orchestrator.launch.ray_jobs import RayJobs

    try:
        return RayJobs(flag, environ)
    except OrchestratorError as error:
        mend = f"export {ADDRESS_VARIABLES[0]}=http://HEAD:8265, which jobs take before RAY_ADDRESS"
        return Finding("ray cluster", PROBLEM, str(error), mend)


def compare_versions(data: Mapping[str, Any]) -> list[Finding]:
    """Whether the cluster has what is installed here.

    Args:
        data: Ray's description of the cluster, as its dashboard spells the keys.
    """
    ray, python = data.get("rayVersion"), data.get("pythonVersion")
    if not (isinstance(ray, str) and isinstance(python, str)):
        mend = "ray --version and python --version on the head tell"
        return [Finding("ray versions", WARNING, "the cluster does not say which versions it has", mend)]
    own_ray, own_python = metadata.version("ray"), platform.python_version()
    findings = []
    if ray != own_ray:
        message = f"the cluster has Ray {ray}, here is {own_ray}; Ray refuses nodes of another version"
        findings.append(Finding("ray versions", PROBLEM, message, f"pip install 'ray[default,train]=={ray}'"))
    if python.rpartition(".")[0] != own_python.rpartition(".")[0]:
        message = f"the cluster has Python {python}, here is {own_python}: recipes are checked by another one"
        mend = f"make the virtual environment with python{python.rpartition('.')[0]}"
        findings.append(Finding("ray versions", WARNING, message, mend))
    return findings or [Finding("ray versions", OK, f"the cluster has Ray {ray} and Python {python}, as here")]


def compare_clocks(whose: str, answer: Answer) -> Finding | None:
    """Whether a server's clock and ours agree; None where it does not tell the time."""
    if answer.date is None:
        return None
    # The header has whole seconds, rounded down, and was written between sending and receiving.
    ahead = answer.date + 0.5 - (answer.sent + answer.received) / 2
    slack = 0.5 + (answer.received - answer.sent) / 2
    return judge_clock("clock", whose, ahead, slack)


def judge_clock(check: str, whose: str, ahead_s: float, slack_s: float) -> Finding:
    """What a difference of clocks means."""
    if abs(ahead_s) - slack_s <= LARGE_SKEW_S:
        return Finding(check, OK, f"{whose} agrees with this one within {LARGE_SKEW_S:g} s")
    word = "ahead of" if ahead_s > 0 else "behind"
    message = f"{whose} is {abs(ahead_s):.0f} s {word} this one; lost jobs are found by the times of their files"
    return Finding(check, WARNING, message, NTP)


def cluster_findings(flag: str | None, environ: Mapping[str, str]) -> tuple[RayJobs | None, list[Finding]]:
    """The cluster, where it answers, and all checks of it."""
    from orchestrator.launch.dashboard import ask, token_of

    if find_spec("ray") is None:
        return None, []  # which is told among the versions
    addresses = [finding for finding in (check_addresses(flag, environ),) if finding is not None]
    cluster = open_cluster(flag, environ)
    if isinstance(cluster, Finding):
        return None, [*addresses, cluster]
    reach = check_reach(cluster)
    if reach.level != OK:
        return None, [*addresses, reach]
    try:
        answer = ask(cluster.address, "/api/v0/cluster_metadata", token_of(environ, Path.home()))
    except OutOfReachError as error:
        mend = "look into the head's dashboard.log"
        return cluster, [*addresses, reach, Finding("ray versions", WARNING, str(error), mend)]
    data = answer.data.get("data") if isinstance(answer.data, dict) else None
    clock = compare_clocks("the head's clock", answer)
    versions = compare_versions(data if isinstance(data, dict) else {})
    return cluster, [*addresses, reach, *versions, *([clock] if clock else [])]
