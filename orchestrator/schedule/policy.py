"""Decides whether a failed attempt is followed by another. Pure: values in, values out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from orchestrator.core.values import Failure, GiveUp, Retry
from orchestrator.spec.job import Retries

# The cause that explains the others: a rank that lost its neighbor fails too, a moment later.
_PRECEDENCE = ("user_error", "diverged", "worker_lost", "worker_crash", "infrastructure")


def first_cause(failures: Iterable[Failure]) -> Failure:
    """The failure that explains an attempt in which several ranks failed; ties go to the lowest rank.

    Raises:
        ValueError: without failures.
    """
    return min(failures, key=lambda failure: (_PRECEDENCE.index(failure.cause), failure.rank or 0))


class RetryPolicy:
    """Keeps one budget per cause over the life of a job.

    Args:
        budgets: restarts allowed by cause.
        used: restarts taken by earlier drivers of the job, by cause.
        rollbacks: restarts allowed because the weights have diverged; 0 where a restart would only repeat it.
    """

    def __init__(self, budgets: Retries, used: dict[str, int] | None = None, *, rollbacks: int = 0) -> None:
        self._budgets = {**budgets.model_dump(exclude={"classes"}), "diverged": rollbacks}
        self.used: Counter[str] = Counter(used or {})

    def decide(self, failure: Failure) -> Retry | GiveUp:
        """Take one restart from the cause's budget, or give up where it is empty."""
        if self.used[failure.cause] >= self._budgets[failure.cause]:
            return GiveUp(failure)
        self.used[failure.cause] += 1
        return Retry(failure)

    def account(self, failure: Failure) -> str:
        """Which budget a failure draws on, how much of it is used and which retry class said so, for people."""
        cause = failure.cause
        if cause == "diverged" and not self._budgets[cause]:
            return "retries: diverged trainings are not repeated"
        name = "exchange.rollbacks" if cause == "diverged" else f"retries.{cause}"
        by = f", by {failure.told_by}" if failure.told_by else ""
        return f"{name} {self.used[cause]} of {self._budgets[cause]}{by}"
