"""Packages that an address of MLflow, or a place of artifacts, needs and MLflow does not bring along. Imports none."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Needed:
    """One package."""

    module: str
    """As it is imported."""
    package: str
    """As pip knows it."""


DATABASE_DRIVERS = {
    "postgresql": Needed("psycopg", "psycopg[binary]"),
    "postgresql+psycopg2": Needed("psycopg2", "psycopg2-binary"),
    "postgresql+psycopg": Needed("psycopg", "psycopg[binary]"),
    "mysql": Needed("MySQLdb", "mysqlclient"),
    "mysql+mysqldb": Needed("MySQLdb", "mysqlclient"),
    "mysql+pymysql": Needed("pymysql", "PyMySQL"),
    "mssql": Needed("pyodbc", "pyodbc"),
    "mssql+pyodbc": Needed("pyodbc", "pyodbc"),
}
"""Scheme of a tracking URI -> what SQLAlchemy reaches such a database with."""
ARTIFACT_STORES = {
    "s3": Needed("boto3", "boto3"),
    "gs": Needed("google.cloud.storage", "google-cloud-storage"),
    "wasbs": Needed("azure.storage.blob", "azure-storage-blob"),
    "abfss": Needed("azure.storage.filedatalake", "azure-storage-file-datalake"),
}
"""Scheme of an artifact location -> what clients reach it with; a server that hands artifacts on asks for nothing."""


def missing_for(tracking_uri: str, artifact_location: str | None) -> list[Needed]:
    """What is not installed here although a job would need it.

    Args:
        tracking_uri: where the history goes.
        artifact_location: of new experiments, where it is known.
    """
    needed = [
        DATABASE_DRIVERS.get(urlsplit(tracking_uri).scheme),
        ARTIFACT_STORES.get(urlsplit(artifact_location or "").scheme),
    ]
    return [one for one in needed if one is not None and not _is_installed(one.module)]


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of a package around it
        return False
