"""SR-SGC: the worked example, every pattern of stragglers of few workers, and patterns that must be refused."""

from itertools import pairwise

import numpy as np
import pytest
from coding_rounds import all_but, played, workers
from straggler_patterns import PerRound, count_patterns, decodes

from orchestrator.core.coding import sr_sgc as module
from orchestrator.core.coding.sr_sgc import SrSgc
from orchestrator.core.errors import UndecodableError

PARAMETERS = [(1, 2, 1), (1, 2, 2), (2, 3, 2), (1, 3, 2), (2, 3, 3), (1, 2, 3), (3, 4, 2)]


def sr_sgc(num_workers: int, burst: int, window: int, max_stragglers: int) -> SrSgc:
    return SrSgc(num_workers, burst=burst, window=window, max_stragglers=max_stragglers)


def jobs_of(scheme: SrSgc) -> list[int | None]:
    """The job that each worker computes for in this round."""
    return [next((task.job for task in scheme.tasks(worker)), None) for worker in range(scheme.num_workers)]


def test_the_worked_example() -> None:
    scheme = sr_sgc(4, 1, 2, 2)
    assert (scheme.num_stragglers, scheme.delay, scheme.load) == (1, 1, 1 / 2)
    missing: list[list[int]] = [[0, 1], [], [2, 3], []]
    expected = [[0, 0, 0, 0], [0, 1, 1, 1], [2, 2, 2, 2], [None, None, 2, None]]
    used = {0: {0, 2, 3}, 1: {1, 2, 3}, 2: {0, 1, 2}}
    for round_index, stragglers in enumerate(missing):
        scheme.begin(round_index, has_new_job=round_index < 3)
        assert jobs_of(scheme) == expected[round_index]
        assert scheme.loads().tolist() == [0 if job is None else 1 / 2 for job in expected[round_index]]
        completed = scheme.close(all_but(4, stragglers))
        assert completed == ((round_index - 1,) if round_index else ())
        for job in completed:
            assert {worker for worker, _ in scheme.decode(job).messages} <= used[job]


def test_the_worked_example_gives_the_plain_sums() -> None:
    gradients = np.array([[1.0, 2, 3, 4], [10, 20, 30, 40], [5, 6, 7, 8]])
    found = played(sr_sgc(4, 1, 2, 2), [[0, 1], [], [2, 3], []], gradients)
    assert found == {0: (1, pytest.approx(10)), 1: (2, pytest.approx(100)), 2: (3, pytest.approx(26))}


@pytest.mark.parametrize(
    ("parameters", "load"), [((2, 3, 23), 13 / 256), ((4, 9, 22), 9 / 256), ((1, 2, 6), 4 / 256), ((1, 2, 0), 1 / 256)]
)
def test_loads(parameters: tuple[int, int, int], load: float) -> None:
    assert sr_sgc(256, *parameters).load == load


@pytest.mark.parametrize("num_workers", [3, 4])
@pytest.mark.parametrize("parameters", PARAMETERS, ids=str)
def test_every_bursty_pattern_is_decoded(num_workers: int, parameters: tuple[int, int, int]) -> None:
    num_patterns, num_failing = count_patterns(sr_sgc(num_workers, *parameters), 3, decodes)
    assert num_patterns >= 512
    assert num_failing == 0


@pytest.mark.parametrize("num_workers", [3, 4])
@pytest.mark.parametrize("parameters", PARAMETERS, ids=str)
def test_every_pattern_with_few_stragglers_in_each_round_is_decoded(
    num_workers: int, parameters: tuple[int, int, int]
) -> None:
    scheme = sr_sgc(num_workers, *parameters)
    scheme._history = PerRound(scheme.num_stragglers)
    assert count_patterns(scheme, 3, decodes)[1] == 0


def test_a_burst_as_long_as_the_window_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "check_parameters", lambda *_: None)
    assert count_patterns(sr_sgc(4, 2, 2, 3), 2, decodes)[1] > 0


def test_one_straggler_more_than_the_model_has_is_refused() -> None:
    scheme = sr_sgc(6, 1, 2, 3)
    scheme.begin(0, has_new_job=True)
    assert scheme.may_close(all_but(6, [0, 1, 2]))
    with pytest.raises(UndecodableError, match="Round 0 cannot close with the messages of 2 of 6 workers"):
        scheme.close(all_but(6, [0, 1, 2, 3]))


def test_a_second_slow_round_within_the_window_is_refused() -> None:
    scheme = sr_sgc(6, 1, 2, 3)
    scheme.begin(0, has_new_job=True)
    scheme.close(all_but(6, [0, 1, 2]))
    scheme.begin(1, has_new_job=True)
    assert not scheme.may_close(all_but(6, [2]))
    assert not scheme.may_close(all_but(6, [5]))
    assert scheme.may_close(all_but(6, []))


def test_rounds_that_the_code_alone_bears_do_not_count() -> None:
    """s = 2: two stragglers leave nothing to make up for, so three others may be slow in the next round."""
    scheme = sr_sgc(6, 1, 2, 3)
    scheme.begin(0, has_new_job=True)
    scheme.close(all_but(6, [0, 1]))
    scheme.begin(1, has_new_job=True)
    assert scheme.may_close(all_but(6, [3, 4, 5]))
    scheme.close(all_but(6, [3, 4, 5]))
    scheme.begin(2, has_new_job=True)
    assert not scheme.may_close(all_but(6, [0, 1]))


def test_strict_exempts_rounds_only_once_they_have_ended() -> None:
    """Within W = 4 rounds of a burst of worker 0 it is slow again, alone, which the code (s = 1) bears."""
    for strict in (False, True):
        scheme = SrSgc(6, burst=1, window=4, max_stragglers=3, strict=strict)
        played(scheme, [[0, 1, 2], [], []], np.ones((4, 6)))
        scheme.begin(3, has_new_job=True)
        assert scheme.may_close(all_but(6, [0])) != strict
        assert scheme.may_close(all_but(6, []))


def test_strict_waits_for_workers_without_a_task() -> None:
    for strict in (False, True):
        scheme = SrSgc(4, burst=1, window=2, max_stragglers=2, strict=strict)
        scheme.begin(0, has_new_job=True)
        scheme.close(all_but(4, [0, 1]))
        scheme.begin(1, has_new_job=False)
        assert jobs_of(scheme) == [0, None, None, None]
        assert scheme.loads().tolist() == [1 / 2, *[1 / 2 if strict else 0] * 3]
        assert scheme.may_close(all_but(4, [3])) != strict


def test_rounds_without_work_take_none() -> None:
    scheme = sr_sgc(4, 1, 2, 2)
    assert played(scheme, [[]], np.ones((1, 4))) == {}
    scheme.begin(1, has_new_job=False)
    assert not scheme.loads().any()
    assert scheme.close(workers(4, [])) == (0,)
    assert scheme.decode(0).residual < 1e-9


def test_only_the_job_that_is_due_is_decoded() -> None:
    scheme = sr_sgc(4, 1, 2, 2)
    played(scheme, [[], []], np.ones((3, 4)))
    with pytest.raises(UndecodableError, match="Job 1 is not one that the last round completed"):
        scheme.decode(1)
    scheme.begin(2, has_new_job=True)
    for job in (0, 1):
        with pytest.raises(UndecodableError, match=f"Job {job} is not one"):
            scheme.decode(job)


def test_random_patterns_of_many_workers_give_the_plain_sums() -> None:
    rng = np.random.default_rng(0)
    num_jobs, num_workers = 40, 12
    gradients = rng.standard_normal((num_jobs, num_workers))
    scheme, trial = sr_sgc(num_workers, 2, 5, 5), sr_sgc(num_workers, 2, 5, 5)
    missing: list[list[int]] = []
    for round_index in range(num_jobs + 2):
        trial.begin(round_index, has_new_job=round_index < num_jobs)
        order = rng.permutation(num_workers)[: rng.integers(0, 7)].tolist()
        while not trial.may_close(all_but(num_workers, order)):
            order.pop()
        trial.close(all_but(num_workers, order))
        missing.append(order)
    assert any(len(order) > scheme.num_stragglers for order in missing)
    found = played(scheme, missing, gradients)
    assert [value for _, value in found.values()] == pytest.approx(gradients.sum(axis=1), abs=1e-9)
    assert [late - job for job, (late, _) in found.items()] == [2] * num_jobs
    assert all(first < second for first, second in pairwise(found))


def test_decoded_jobs_are_forgotten() -> None:
    scheme = sr_sgc(4, 1, 2, 2)
    played(scheme, [[]] * 50, np.ones((50, 4)))
    assert len(scheme._delivered) == scheme.delay + 1


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ((0, 2, 1), r"Invalid burst value: 0\. Must be an integer at least 1\."),
        ((2, 2, 1), r"Invalid window value: 2\. Must be an integer at least 3\."),
        ((2, 4, 1), r"Invalid window value: 4\. Must be 1 more than a multiple of the burst, 2\."),
        ((1, 2, 5), r"Invalid max_stragglers value: 5\. Must be an integer from 0 to 4\."),
    ],
)
def test_parameters_are_checked(parameters: tuple[int, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sr_sgc(4, *parameters)
