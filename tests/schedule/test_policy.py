"""Retry decisions are values: no cluster is needed to test them."""

import pytest

from orchestrator.core.values import Failure, GiveUp, Retry
from orchestrator.schedule.policy import RetryPolicy, first_cause
from orchestrator.spec.job import Retries


def failure(cause: str, rank: int | None = None) -> Failure:
    return Failure(cause=cause, message="m", rank=rank)


def test_each_cause_has_its_own_budget() -> None:
    policy = RetryPolicy(Retries(worker_lost=2, worker_crash=1, user_error=0))
    assert isinstance(policy.decide(failure("worker_lost")), Retry)
    assert isinstance(policy.decide(failure("worker_crash")), Retry)
    assert isinstance(policy.decide(failure("worker_crash")), GiveUp)
    assert isinstance(policy.decide(failure("worker_lost")), Retry)
    assert isinstance(policy.decide(failure("worker_lost")), GiveUp)
    assert isinstance(policy.decide(failure("user_error")), GiveUp)


def test_budgets_last_over_the_life_of_the_job() -> None:
    policy = RetryPolicy(Retries(worker_lost=2), used={"worker_lost": 2})
    assert isinstance(policy.decide(failure("worker_lost")), GiveUp)


def test_trouble_of_the_infrastructure_has_a_budget_of_its_own() -> None:
    policy = RetryPolicy(Retries(worker_lost=0, infrastructure=1))
    assert isinstance(policy.decide(failure("infrastructure")), Retry)
    assert policy.account(failure("infrastructure")) == "retries.infrastructure 1 of 1"
    assert isinstance(policy.decide(failure("infrastructure")), GiveUp)
    assert isinstance(policy.decide(failure("worker_lost")), GiveUp)


def test_the_class_that_named_the_cause_is_told() -> None:
    policy = RetryPolicy(Retries(user_error=0))
    told = Failure(cause="user_error", message="m", told_by="retries.classes.2")
    assert isinstance(policy.decide(told), GiveUp)
    assert policy.account(told) == "retries.user_error 0 of 0, by retries.classes.2"


def test_weights_that_diverged_go_back_as_often_as_the_exchange_says() -> None:
    policy = RetryPolicy(Retries(user_error=5), rollbacks=1)
    assert isinstance(policy.decide(failure("diverged")), Retry)
    assert policy.account(failure("diverged")) == "exchange.rollbacks 1 of 1"
    assert isinstance(policy.decide(failure("diverged")), GiveUp)


def test_a_training_that_would_diverge_again_is_not_repeated() -> None:
    policy = RetryPolicy(Retries(user_error=5))
    assert isinstance(policy.decide(failure("diverged")), GiveUp)
    assert policy.account(failure("diverged")) == "retries: diverged trainings are not repeated"


@pytest.mark.parametrize(
    ("causes", "expected"),
    [
        (["worker_crash", "worker_lost"], 1),  # the survivor of a lost neighbor fails in a collective
        (["worker_crash", "user_error"], 1),  # the recipe raised on rank 1, rank 0 lost its neighbor
        (["worker_crash", "worker_crash"], 0),
    ],
)
def test_the_cause_that_explains_the_others_is_named(causes: list[str], expected: int) -> None:
    assert first_cause([failure(cause, rank) for rank, cause in enumerate(causes)]).rank == expected
