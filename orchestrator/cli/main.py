"""The command `orchestrator`: its subcommands, and the one place where errors become messages and exit codes."""

from __future__ import annotations

import errno
import sys
import tempfile
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from orchestrator import __version__
from orchestrator.cli import (
    advise,
    cluster,
    compare,
    critical_batch,
    diagnosis,
    export,
    fetch,
    fit_curve,
    jobs,
    logs,
    methods,
    planning,
    queue,
    recover,
    remote,
    simulate,
    simulate_delay,
    specs,
    start,
    watching,
)
from orchestrator.cli.interrupts import INTERRUPTED
from orchestrator.cli.output import emit, paint, tell
from orchestrator.cli.page.command import report
from orchestrator.core.errors import BAD_USAGE, JOB_FAILED, SUCCESS, OrchestratorError
from orchestrator.spec.problems import SpecError

MENDABLE = frozenset(
    {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EIO, errno.ENAMETOOLONG}
)
"""What the system says of a file where the user, not this program, can do something about it."""

app = typer.Typer(
    name="orchestrator",
    help="Large-batch training on Ray: a YAML job spec in, an MLflow run out.",
    epilog="Exit codes: 0 success, 1 the job failed, 2 bad usage or spec, 3 stopped, 4 timed out, 5 out of reach.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    specs.check,
    planning.plan,
    start.run,
    start.submit,
    start.resume,
    recover.recover,
    jobs.list_jobs,
    jobs.status,
    watching.watch,
    queue.queue,
    logs.logs,
    jobs.stop,
    report,
    compare.compare,
    export.export,
    fetch.fetch,
    fit_curve.fit_curve,
    critical_batch.critical_batch,
    advise.advise,
    methods.methods,
    specs.schema,
    diagnosis.doctor,
):
    app.command(name="list" if command is jobs.list_jobs else None)(command)
# What comes after the other command's name is that command's.
app.command(context_settings={"allow_interspersed_args": False, "ignore_unknown_options": True})(remote.remote)
simulate.app.command()(simulate_delay.delay)
app.add_typer(simulate.app, name="simulate")
app.add_typer(cluster.app, name="cluster")


def _show_version(asked: bool) -> None:
    if asked:
        emit(f"orchestrator {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Large-batch training on Ray: a YAML job spec in, an MLflow run out."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; ``arguments`` default to those of the process.

    Every expected error ends as one message on stderr; the traceback of an unexpected one goes to a file.
    """
    try:
        result = app(args=arguments, prog_name="orchestrator", standalone_mode=False)
    except typer.TyperException as error:
        _tell_error(error.format_message())
        tell("`orchestrator --help` and `orchestrator COMMAND --help` show what is possible.")
        return BAD_USAGE
    except (SpecError, OrchestratorError) as error:
        _tell_error(str(error))
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except OSError as error:
        if error.errno not in MENDABLE or error.filename is None:
            return _report_bug(error)
        _tell_error(f"{error.filename}: {error.strerror}")
        return BAD_USAGE
    except Exception as error:
        return _report_bug(error)
    return result if isinstance(result, int) else SUCCESS


def _tell_error(message: str) -> None:
    tell(paint("error:", "red", sys.stderr) + f" {message}")


def _report_bug(error: Exception) -> int:
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", prefix="orchestrator-error-", suffix=".txt", delete=False
    ) as file:
        file.write("".join(traceback.format_exception(error)))
    kind = type(error).__name__
    _tell_error(f"{kind}: {error}\nThis is a bug; please report it with the traceback in {file.name}")
    return JOB_FAILED
