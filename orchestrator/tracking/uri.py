"""Where MLflow is: which address holds, whether it can be used, whether it answers. Never imports mlflow."""

from __future__ import annotations

import base64
import configparser
import json
import os
import re
import socket
import ssl
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit
from urllib.request import Request, urlopen

from orchestrator.core.errors import OutOfReachError, UsageError

DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
"""Databases that MLflow can use directly, with the port that holds where the address names none."""

LEGAL_FORMS = "http://host:5000, https://host, sqlite:////folder/mlflow.db or postgresql://user@host/database"
SQLITE_PREFIX = "sqlite:///"
_USER_INFO = re.compile(r"://([^\s/?#]*)@")
_SECRET_IN_QUERY = re.compile(r"(?i)([?&][^=&\s]*(?:password|token|secret)[^=&\s]*=)[^&\s]*")
_SEARCH = "/api/2.0/mlflow/experiments/search"
_DEFAULT_EXPERIMENT = "/api/2.0/mlflow/experiments/get"


def resolve_tracking_uri(spec_uri: str | None, environ: Mapping[str, str], storage: Path) -> str:
    """The address that holds: the spec's, else ``MLFLOW_TRACKING_URI``, else sqlite beside the run directories.

    A relative sqlite path is taken from the current folder and made absolute, because workers stand elsewhere.
    """
    uri = spec_uri or environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE_PREFIX}{storage.absolute() / 'mlflow.db'}"
    path = uri.removeprefix(SQLITE_PREFIX)
    if path != uri and path and not path.startswith(("/", ":")):
        return f"{SQLITE_PREFIX}{Path(path).absolute()}"
    return uri.rstrip("/")


def redact(text: str) -> str:
    """The text with passwords and tokens of every address in it replaced by ``***``."""

    def without_password(match: re.Match[str]) -> str:
        user, colon, _ = match[1].partition(":")
        return f"://{user}:***@" if colon else "://***@"

    return _SECRET_IN_QUERY.sub(r"\1***", _USER_INFO.sub(without_password, text))


def sqlite_path(uri: str) -> Path | None:
    """The database file of a sqlite address; None for every other address."""
    if not uri.startswith("sqlite:"):
        return None
    return Path(uri.removeprefix(SQLITE_PREFIX).partition("?")[0])


def check_uri(uri: str) -> None:
    """Refuse an address that MLflow cannot keep a history at.

    Raises:
        UsageError: naming the address and the legal forms.
    """
    shown = redact(uri)
    try:
        parts = urlsplit(uri)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise UsageError(f"Tracking URI {shown!r} is malformed: {error}; write {LEGAL_FORMS}") from error
    scheme = uri if uri == "databricks" else parts.scheme.partition("+")[0]
    if scheme in {"", "file"}:
        raise UsageError(
            f"Tracking URI {shown!r} is a plain folder, which MLflow refuses since 3.13; "
            f"write sqlite:///{Path(parts.path or '.').absolute() / 'mlflow.db'} or the address of a server"
        )
    if scheme == "sqlite":
        if not uri.startswith(SQLITE_PREFIX) or uri.removeprefix(SQLITE_PREFIX).partition("?")[0] in {"", ":memory:"}:
            raise UsageError(f"Tracking URI {shown!r} names no file to keep the history in; write {LEGAL_FORMS}")
    elif scheme not in {"http", "https", *DATABASE_PORTS}:
        raise UsageError(
            f"Tracking URI {shown!r} has the scheme {scheme!r}, which is not supported; write {LEGAL_FORMS}"
        )
    elif not host and scheme in {"http", "https"}:
        raise UsageError(f"Tracking URI {shown!r} names no host; write {LEGAL_FORMS}")


def check_reachable(uri: str, timeout_s: float) -> None:
    """Ask whether the tracking server or database can be used now; ``timeout_s`` bounds each network operation.

    A server is asked for an experiment rather than for ``/health``, which answers even where every call is refused.

    Raises:
        UsageError: for an address that ``check_uri`` refuses.
        OutOfReachError: in one sentence with the remedy, where there is one.
    """
    check_uri(uri)
    parts = urlsplit(uri)
    if parts.scheme in {"http", "https"}:
        _check_server(uri, parts, timeout_s)
    elif (path := sqlite_path(uri)) is not None:
        _check_file(path)
    elif parts.hostname:
        port = parts.port or DATABASE_PORTS[parts.scheme.partition("+")[0]]
        try:
            socket.create_connection((parts.hostname, port), timeout=timeout_s).close()
        except OSError as error:
            raise OutOfReachError(f"The tracking database at {redact(uri)} does not answer: {error}") from error


def _check_file(path: Path) -> None:
    folder = next(ancestor for ancestor in path.absolute().parents if ancestor.exists())
    if not folder.is_dir():
        raise OutOfReachError(f"The tracking database {path} cannot be created: {folder} is not a folder")
    if path.is_dir():
        raise OutOfReachError(f"The tracking database {path} is a folder; name a file in it, such as {path}/mlflow.db")
    # sqlite writes its journal beside the database, so the folder has to be writable too.
    for needed in (folder, path) if path.exists() else (folder,):
        if not os.access(needed, os.W_OK):
            raise OutOfReachError(f"The tracking database {path} cannot be written: no permission to write {needed}")


def _check_server(uri: str, parts: SplitResult, timeout_s: float) -> None:
    authority = parts.netloc.rpartition("@")[2]
    try:
        is_mlflow = isinstance(_get(parts, _SEARCH, "max_results=1", timeout_s), dict)
    except HTTPError as error:
        with error:
            raise OutOfReachError(_refusal(redact(uri), authority, error)) from error
    except ValueError:
        is_mlflow = False
    except (OSError, HTTPException) as error:
        reason = error.reason if isinstance(error, URLError) else error
        raise OutOfReachError(f"MLflow at {redact(uri)} does not answer: {reason}") from error
    if not is_mlflow:
        raise OutOfReachError(f"What answers at {redact(uri)} is not an MLflow server")


def _get(parts: SplitResult, path: str, query: str, timeout_s: float) -> Any:
    """Ask the server; raises whatever ``urlopen`` does, and ValueError for what is no JSON."""
    authority = parts.netloc.rpartition("@")[2]
    address = urlunsplit((parts.scheme, authority, parts.path.rstrip("/") + path, query, ""))
    request = Request(address, headers=_authorization(parts))
    with urlopen(request, timeout=timeout_s, context=_tls(parts.scheme)) as response:
        return json.loads(response.read())


def artifact_location(uri: str, timeout_s: float) -> str | None:
    """Where a server keeps the artifacts of new experiments, as its first one shows; None where it does not tell."""
    parts = urlsplit(uri)
    if parts.scheme not in {"http", "https"}:
        return None
    try:
        answer = _get(parts, _DEFAULT_EXPERIMENT, "experiment_id=0", timeout_s)
        return str(answer["experiment"]["artifact_location"])
    except HTTPError as error:
        error.close()
        return None
    except (OSError, HTTPException, ValueError, KeyError, TypeError):
        return None


def _refusal(shown: str, authority: str, error: HTTPError) -> str:
    body = error.read(2000).decode(errors="replace")
    if error.code == 403 and "Invalid Host header" in body:
        return (
            f"MLflow at {shown} refuses the host name {authority!r}; start the server with "
            f'--allowed-hosts "{authority},localhost:*" (or set MLFLOW_SERVER_ALLOWED_HOSTS)'
        )
    if error.code in {401, 403}:
        return (
            f"MLflow at {shown} refuses these credentials (HTTP {error.code}); set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        )
    if error.code == 404:
        return f"What answers at {shown} has no MLflow API under that path (HTTP 404)"
    return f"MLflow at {shown} answers with HTTP {error.code} {error.reason}"


def _authorization(parts: SplitResult) -> dict[str, str]:
    """The header that MLflow's own client would send: user and password first, then the token."""
    stored = configparser.ConfigParser(interpolation=None)
    stored.read(Path("~/.mlflow/credentials").expanduser())
    user, password = (
        os.environ.get(name.upper()) or stored.get("mlflow", name, fallback=None)
        for name in ("mlflow_tracking_username", "mlflow_tracking_password")
    )
    if not (user and password) and parts.username:
        user, password = unquote(parts.username), unquote(parts.password or "")
    if user and password:
        return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    return {"Authorization": f"Bearer {token}"} if token else {}


def _tls(scheme: str) -> ssl.SSLContext | None:
    if scheme != "https":
        return None
    context = ssl.create_default_context(cafile=os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH") or None)
    if os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in {"true", "1"}:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context
