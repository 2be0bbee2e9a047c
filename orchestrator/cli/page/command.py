"""`orchestrator report`: what a job did, as one HTML page and one PNG."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.export import Force
from orchestrator.cli.options import JobName, Json, Storage, check_target, open_job
from orchestrator.cli.output import emit_fields, emit_json, tell
from orchestrator.core.errors import OrchestratorError, OutOfReachError, UsageError
from orchestrator.core.run_directory import RunDirectory, write_atomically

if TYPE_CHECKING:
    from orchestrator.cli.page.charts import Chart
    from orchestrator.cli.page.record import Record

ARTIFACT_FOLDER = "report"
REACH_TIMEOUT_S = 5.0

Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE.html",
        help="Page to write, with a PNG beside it. [default: report.html in the run directory]",
        show_default=False,
    ),
]
Open = Annotated[bool, typer.Option("--open", help="Show the page in the browser.", show_default=False)]


def report(
    job: JobName,
    output: Output = None,
    opens: Open = False,
    force: Force = False,
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Make a page of a job's curves, decisions and cost.

    One HTML file that needs no network, and a PNG of its pictures. The job may be in any phase. Both also become
    artifacts of the job's MLflow run where that can be reached.
    """
    from orchestrator.cli.page.html import page_of
    from orchestrator.cli.page.record import read_record
    from orchestrator.launch.control import reconcile

    run = open_job(job, storage)
    page = _target(run, output, force)
    record = read_record(run, reconcile(run), time.time())
    charts = charts_of(record)
    write_atomically(page, page_of(record, charts))
    picture = _write_picture(page.with_suffix(".png"), record, charts)
    kept_at = _keep_in_mlflow(run, record.state, page, picture)
    if as_json:
        emit_json({"page": page, "picture": picture, "mlflow_artifacts": kept_at})
    else:
        emit_fields({"page": page, "picture": picture, "MLflow artifacts": kept_at})
    if opens:
        _show(page)


def charts_of(record: Record) -> list[Chart]:
    """All pictures of a job for which something is recorded."""
    from orchestrator.cli.page.training_charts import training_charts
    from orchestrator.cli.page.worker_charts import worker_charts

    return [*training_charts(record.trainings), *worker_charts(record)]


def _target(run: RunDirectory, output: Path | None, force: bool) -> Path:
    """The page to write.

    Raises:
        UsageError: where it cannot be written, or exists and is not the run directory's own.
    """
    if output is not None:
        if output.suffix.lower() not in (".html", ".htm"):
            raise UsageError(f"--output: {output} must end in .html; the picture beside it ends in .png.")
        for file in (output, output.with_suffix(".png")):
            check_target("--output", file, force)
        return output.absolute()
    if not os.access(run.root, os.W_OK):
        raise UsageError(f"--output: {run.root} cannot be written; name another file for the page.")
    return run.report_file


def _write_picture(file: Path, record: Record, charts: Sequence[Chart]) -> Path | None:
    """The PNG; None where there is nothing to draw."""
    if not charts:
        return None
    from orchestrator.cli.page.drawing import write_png

    write_png(file, f"{record.run.name}: {record.state['phase']}", charts)
    return file


def _keep_in_mlflow(run: RunDirectory, state: Mapping[str, Any], page: Path, picture: Path | None) -> str | None:
    """Upload both files; where they are then, or None with the reason on stderr."""
    run_id = state.get("mlflow_run_id")
    if run_id is None:
        return None
    from orchestrator.launch.lost import recorded_tracking_uri
    from orchestrator.tracking.run import log_artifact
    from orchestrator.tracking.uri import check_reachable, sqlite_path

    try:
        uri = recorded_tracking_uri(run, state, os.environ)
        check_reachable(uri, REACH_TIMEOUT_S)
        database = sqlite_path(uri)
        if database is not None and not database.is_file():
            raise OutOfReachError(f"{database}, where the job's history was, does not exist any more")
        with tempfile.TemporaryDirectory() as folder:
            # Under the names of the run directory, whatever --output says: a newer report replaces an older one.
            name = run.report_file
            for file, target in ((page, name), (picture, name.with_suffix(".png"))):
                if file is not None:
                    log_artifact(uri, run_id, Path(shutil.copy(file, Path(folder) / target.name)), ARTIFACT_FOLDER)
    except OrchestratorError as error:
        tell(f"not kept in MLflow: {error}")
        return None
    return f"{ARTIFACT_FOLDER}/ of run {run_id}"


def _show(page: Path) -> None:
    import webbrowser

    if not webbrowser.open(page.as_uri()):
        tell(f"--open: no browser was found here; open {page} in one.")
