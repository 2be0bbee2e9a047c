"""What a spec may say about failures whose cause it knows better: by exit code, or by a pattern of what was printed."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from orchestrator.spec.problems import shown
from orchestrator.spec.section import Section, list_to_tuple


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{shown(pattern)} is not a regular expression of Python: {error}") from None
    return pattern


ExitCodes = Annotated[
    tuple[Annotated[int, Field(ge=1, le=255)], ...], Field(min_length=1), BeforeValidator(list_to_tuple)
]


class RetryClass(Section):
    """Failures that count under another cause: those for which all of the class's conditions hold.

    Classes are tried in their order, and the first that holds decides, whatever the cause would have been without it.
    Each is asked about the worker that failed first, then about the others that failed. A training whose loss is no
    longer finite is left alone: no restart helps it.
    """

    cause: Literal["worker_lost", "worker_crash", "user_error", "infrastructure"]
    """The budget of `retries` that such a failure draws on."""
    exit_codes: ExitCodes | None = None
    """Only of jobs with a script: exit codes of its process, 128 + n where signal n ended it, so that 137 is SIGKILL;
    null is any."""
    pattern: Annotated[str, Field(min_length=1), AfterValidator(_compiles)] | None = None
    """A regular expression of Python that is found in the failure's message, its traceback or the last 64 KiB of the
    worker's log; ^ and $ are the ends of lines; null is any."""

    @model_validator(mode="after")
    def _has_a_condition(self) -> Self:
        if self.exit_codes is None and self.pattern is None:
            raise ValueError(
                "needs exit_codes, a pattern, or both; without a condition it would hold for every failure"
            )
        return self
