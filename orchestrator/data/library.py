"""What the `datasets` library raises, told to a person in one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from orchestrator.core.errors import DataError, OrchestratorError


@contextmanager
def library_call(what: str) -> Iterator[None]:
    """Turn any exception of the block into a DataError; ours pass unchanged.

    Args:
        what: beginning of the sentence, such as ``data.source: cannot load 'json'``.
    """
    try:
        yield
    except OrchestratorError:
        raise
    except Exception as error:
        raise DataError(f"{what}: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    """The message, and where the library only says that something failed, also the cause that it hides."""
    text = " ".join(str(error).split()) or type(error).__name__
    cause = error.__cause__
    return text if cause is None else f"{text.rstrip('.')} ({type(cause).__name__}: {' '.join(str(cause).split())})"
