"""Errors that reach a person: each is one sentence, and carries the exit code of the command line."""

from __future__ import annotations

SUCCESS, JOB_FAILED, BAD_USAGE, STOPPED, TIMED_OUT, OUT_OF_REACH = range(6)
"""Exit codes: 0 success, 1 the job failed, 2 bad usage or spec, 3 stopped, 4 timed out, 5 out of reach."""


class OrchestratorError(Exception):
    """Something a person can mend; ``str()`` of it is the whole message."""

    exit_code = JOB_FAILED


class UsageError(OrchestratorError):
    """The command or its arguments cannot be carried out as given."""

    exit_code = BAD_USAGE


class OutOfReachError(OrchestratorError):
    """A cluster, a storage service or a tracking server does not answer."""

    exit_code = OUT_OF_REACH


class RecipeError(OrchestratorError):
    """The user's recipe raised an error or returned something that its contract does not allow."""


class DivergedError(RecipeError):
    """The loss or a gradient is no longer finite: the weights are of no use any more."""


class CheckpointError(OrchestratorError):
    """A checkpoint is missing, incomplete or belongs to another job."""


class UnsupportedLayoutError(OrchestratorError):
    """A library keeps its state in a form that this version does not know; going on would train something else."""


class DataError(OrchestratorError):
    """The data cannot be served as asked for."""


class UndecodableError(OrchestratorError):
    """The workers' messages at hand do not determine the gradient of the whole batch."""
