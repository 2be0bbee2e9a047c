"""Questions to the dashboard of a Ray cluster over plain HTTP: its nodes, versions and clock. Never imports Ray."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from orchestrator.core.errors import OutOfReachError

TIMEOUT_S = 10.0
HEALTH = "/api/gcs_healthz"
"""The one question that is answered without the token."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a dashboard said."""

    data: Any
    """The parsed JSON; the text where it is none."""
    date: float | None
    """The head's clock, in whole seconds since 1970; None where it does not tell."""
    sent: float
    """This machine's clock when the question was sent."""
    received: float
    """This machine's clock when the answer was there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterNode:
    """A node as the head knows it."""

    node_id: str
    address: str
    is_head: bool
    is_alive: bool
    cpus: float
    gpus: float


def token_of(environ: Mapping[str, str], home: Path) -> str | None:
    """The token that Ray's own client would send; None where it would send none."""
    if environ.get("RAY_AUTH_MODE") != "token":
        return None
    if token := environ.get("RAY_AUTH_TOKEN"):
        return token
    path = Path(environ.get("RAY_AUTH_TOKEN_PATH") or home / ".ray" / "auth_token")
    return path.read_text(encoding="utf-8").strip() if path.is_file() else None


def ask(address: str, path: str, token: str | None = None, timeout_s: float = TIMEOUT_S) -> Answer:
    """Get one page of a dashboard.

    Args:
        address: as in ``http://head:8265``.
        path: with a leading slash.
        token: of the cluster.
        timeout_s: of each network operation.

    Raises:
        OutOfReachError: if nobody answers, or not to us.
    """
    request = Request(f"{address}{path}", headers={"Authorization": f"Bearer {token}"} if token else {})
    sent = time.time()
    try:
        with urlopen(request, timeout=timeout_s) as response:
            body, date = response.read(), response.headers.get("Date")
    except HTTPError as error:
        with error:
            if error.code in (401, 403):
                mend = "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN to the cluster's token"
                raise OutOfReachError(f"{address}: the Ray cluster asks for its token; {mend}.") from None
            raise OutOfReachError(f"{address}{path} answers with HTTP {error.code} {error.reason}.") from None
    except (OSError, HTTPException, ValueError) as error:
        raise OutOfReachError(f"{address}: no Ray dashboard answers there: {error}") from None
    received = time.time()
    try:
        data = json.loads(body)
    except ValueError:
        data = body.decode(errors="replace")
    return Answer(data, None if date is None else parsedate_to_datetime(date).timestamp(), sent, received)


def nodes_of(address: str, token: str | None) -> list[ClusterNode]:
    """All nodes that the head knows, those that have left too; the head first.

    Raises:
        OutOfReachError: as ``ask``.
    """
    answer = ask(address, "/api/v0/nodes?detail=1&limit=10000", token, timeout_s=3 * TIMEOUT_S).data
    try:
        nodes = [
            ClusterNode(
                node_id=node["node_id"],
                address=node["node_ip"],
                is_head=node["is_head_node"],
                is_alive=node["state"] == "ALIVE",
                cpus=node["resources_total"].get("CPU", 0.0),
                gpus=node["resources_total"].get("GPU", 0.0),
            )
            for node in answer["data"]["result"]["result"]
        ]
    except (KeyError, TypeError) as error:
        raise OutOfReachError(f"{address}: what answers there is no Ray dashboard ({error!r} is missing).") from None
    return sorted(nodes, key=lambda node: (not node.is_head, node.node_id))
