"""Errors raised inside a user's code, told by the user's own line instead of a traceback through ours."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.core.errors import OrchestratorError, RecipeError


def describe_user_error(what: str, error: BaseException, folder: Path | None) -> str:
    """One sentence: what failed, the innermost line of a file under ``folder`` (else the innermost line), the error."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if folder is not None and Path(f.filename).is_relative_to(folder)]
    place = ""
    if frames:
        frame = (own or frames)[-1]
        place = f" at {Path(frame.filename).name}:{frame.lineno} ({frame.line})"
    return f"{what} raised {type(error).__name__}{place}: {error}"


@contextmanager
def user_code(what: str, folder: Path | None = None) -> Iterator[None]:
    """Turn any exception of the block into a RecipeError that names the user's line; ours pass unchanged.

    Args:
        what: what was called, such as ``Digits.loss``.
        folder: the folder of the user's files.
    """
    try:
        yield
    except OrchestratorError:
        raise
    except Exception as error:
        raise RecipeError(describe_user_error(what, error, folder)) from error
