"""M-SGC: the worked example, every pattern of stragglers of few workers, loads, and late messages."""

from collections.abc import Iterable

import numpy as np
import pytest
from coding_rounds import all_but, played
from straggler_patterns import Arbitrary, count_patterns, decodes

from orchestrator.core.coding import m_sgc as module
from orchestrator.core.coding.m_sgc import MSgc
from orchestrator.core.coding.stragglers import Bursty
from orchestrator.core.errors import UndecodableError

PARAMETERS = [(1, 2, 1), (1, 2, 2), (2, 3, 2), (1, 3, 2), (2, 3, 3), (1, 2, 3), (2, 4, 2), (3, 4, 2)]
EXAMPLE: list[list[int]] = [[2], [], [0], []]


def m_sgc(num_workers: int, burst: int, window: int, max_stragglers: int) -> MSgc:
    return MSgc(num_workers, burst=burst, window=window, max_stragglers=max_stragglers)


def slots_of(scheme: MSgc, worker: int) -> list[tuple[int, int]]:
    return [(task.job, task.slot) for task in scheme.tasks(worker)]


def test_the_worked_example_round_by_round() -> None:
    """Slot 0 is the worker's D1 chunk, slot 1 its D2 message."""
    scheme = m_sgc(4, 1, 2, 1)
    assert (scheme.delay, scheme.num_messages, scheme.load) == (1, 2, pytest.approx(1 / 3))
    assert scheme.chunk_weights == (2, 2, 2, 2, 1, 1, 1, 1)
    both = [(1, 0), (0, 1)]
    expected = [
        [[(0, 0)]] * 4,
        [both, both, [(1, 0), (0, 0)], both],
        [[(2, 0), (1, 1)]] * 4,
        [[(2, 0)], [(2, 1)], [(2, 1)], [(2, 1)]],
    ]
    second_kind = {0: {0, 1, 3}, 1: {1, 2, 3}, 2: {1, 2, 3}}
    for round_index, stragglers in enumerate(EXAMPLE):
        scheme.begin(round_index, has_new_job=round_index < 3)
        for worker in range(4):
            assert slots_of(scheme, worker) == sorted(expected[round_index][worker])
        assert scheme.loads() == pytest.approx([len(own) / 6 for own in expected[round_index]])
        for job in scheme.close(all_but(4, stragglers)):
            messages = scheme.decode(job).messages
            assert {worker for worker, slot in messages if slot == 0} == {0, 1, 2, 3}
            assert {worker for worker, slot in messages if slot == 1} == second_kind[job]
            assert list(messages) == sorted(messages)


def test_the_worked_example_gives_110() -> None:
    gradients = np.tile([10.0, 20, 30, 40, 1, 2, 3, 4], (3, 1))
    found = played(m_sgc(4, 1, 2, 1), EXAMPLE, gradients)
    assert found == {job: (job + 1, pytest.approx(110)) for job in range(3)}


def test_chunks_are_numbered_through() -> None:
    scheme = m_sgc(3, 2, 3, 1)
    assert scheme.chunk_weights == (2,) * 6 + (1,) * 6
    chunks: dict[int, set[int]] = {}
    for round_index in range(4):
        scheme.begin(round_index, has_new_job=round_index == 0)
        for worker in range(3):
            (task,) = scheme.tasks(worker)
            assert list(task.chunks) == sorted(task.chunks)
            chunks.setdefault(task.slot, set()).update(task.chunks)
            assert task.slot > 1 or task.chunks == (2 * worker + task.slot,)
        scheme.close(all_but(3, []))
    assert chunks == {0: {0, 2, 4}, 1: {1, 3, 5}, 2: {6, 7, 8}, 3: {9, 10, 11}}


@pytest.mark.parametrize("parameters", [(4, 1, 2, 1), (5, 2, 3, 2), (6, 1, 4, 5), (4, 2, 4, 4), (3, 2, 5, 0)], ids=str)
def test_load_is_the_largest_share_of_a_batch(parameters: tuple[int, int, int, int]) -> None:
    num_workers, burst, window, most = parameters
    scheme = m_sgc(*parameters)
    total = sum(scheme.chunk_weights)
    for round_index in range(window + burst + 2):
        scheme.begin(round_index, has_new_job=True)
        for worker in range(num_workers):
            tasks = scheme.tasks(worker)
            share = sum(scheme.chunk_weights[chunk] for task in tasks for chunk in task.chunks) / total
            assert scheme.loads()[worker] == pytest.approx(share)
        # A worker that is slow in the first round has chunks to make up for, which fills every message.
        scheme.close(all_but(num_workers, [0] if most and round_index == 0 else []))
        assert scheme.loads().max() <= scheme.load * (1 + 1e-12)
    jobs = window - 1 + burst
    if most == num_workers:
        assert scheme.load == pytest.approx(jobs / (num_workers * (window - 1)))
    else:
        assert scheme.load == pytest.approx((most + 1) * jobs / (num_workers * (burst + (window - 1) * (most + 1))))
        assert scheme.loads() == pytest.approx([scheme.load] * num_workers)


@pytest.mark.parametrize(
    ("parameters", "load"), [((1, 2, 27), 0.0075431), ((1, 2, 24), 0.0075120), ((1, 2, 9), 0.0071023)]
)
def test_loads_of_256_workers(parameters: tuple[int, int, int], load: float) -> None:
    assert m_sgc(256, *parameters).load == pytest.approx(load, abs=5e-8)


def test_a_longer_window_comes_close_to_uncoded() -> None:
    loads = [m_sgc(256, 1, window, 27).load * 256 for window in (2, 5, 10, 100)]
    assert loads[1:3] == pytest.approx([1.24, 1.107], abs=5e-3)
    assert loads == sorted(loads, reverse=True)
    assert 1 < loads[-1] < 1.02


def test_no_scheme_can_have_less_load_than_the_bound() -> None:
    for num_workers in (3, 5, 8):
        for burst, window in ((1, 2), (1, 4), (2, 3), (3, 5)):
            for most in range(1, num_workers + 1):
                load = m_sgc(num_workers, burst, window, most).load
                own, jobs = window - 1, window - 1 + burst
                bound = jobs / (num_workers * own + burst * (num_workers - most))
                is_met = most >= num_workers - 1
                assert load == pytest.approx(bound) if is_met else load > bound


@pytest.mark.parametrize(
    ("num_workers", "parameters"), [*((3, p) for p in PARAMETERS), *((4, p) for p in PARAMETERS[:-1])], ids=str
)
def test_every_bursty_pattern_is_decoded(num_workers: int, parameters: tuple[int, int, int]) -> None:
    num_patterns, num_failing = count_patterns(m_sgc(num_workers, *parameters), 3, decodes)
    assert num_patterns >= 40
    assert num_failing == 0


@pytest.mark.parametrize("num_workers", [3, 4])
@pytest.mark.parametrize("parameters", [p for p in PARAMETERS if p not in ((3, 4, 2), (2, 3, 3))], ids=str)
def test_every_arbitrary_pattern_is_decoded(num_workers: int, parameters: tuple[int, int, int]) -> None:
    burst, window, most = parameters
    scheme = m_sgc(num_workers, *parameters)
    scheme._history = Arbitrary(num_workers, num_rounds=burst, window=window - 1 + burst, max_stragglers=most)
    assert count_patterns(scheme, 3, decodes)[1] == 0


def test_a_burst_as_long_as_the_window_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "check_parameters", lambda *_: None)
    assert count_patterns(m_sgc(3, 2, 2, 2), 4, decodes) == (34297, 16482)


def test_one_straggler_more_than_the_code_bears_is_not_decoded() -> None:
    scheme = m_sgc(4, 1, 2, 1)
    scheme._history = Bursty(4, burst=1, window=2, max_stragglers=2)
    assert count_patterns(scheme, 3, decodes) == (797, 732)


def test_one_straggler_more_than_the_model_has_is_refused() -> None:
    scheme = m_sgc(4, 1, 2, 1)
    scheme.begin(0, has_new_job=True)
    with pytest.raises(UndecodableError, match="Round 0 cannot close with the messages of 2 of 4 workers"):
        scheme.close(all_but(4, [0, 1]))


def lost_in_first_round(scheme: MSgc, missing: Iterable[int]) -> None:
    scheme.begin(0, has_new_job=True)
    scheme.close(all_but(scheme.num_workers, missing))


def test_a_late_chunk_is_not_computed_again() -> None:
    scheme = m_sgc(4, 1, 2, 1)
    lost_in_first_round(scheme, [2])
    assert scheme.credit(2, 0, 0)
    assert not scheme.credit(2, 0, 0)
    scheme.begin(1, has_new_job=True)
    assert slots_of(scheme, 2) == [(0, 1), (1, 0)]
    assert scheme.close(all_but(4, [])) == (0,)
    assert (2, 0) in scheme.decode(0).messages


def test_a_late_chunk_stands_in_for_a_second_attempt_that_is_lost() -> None:
    """Both attempts of worker 2 miss their rounds, which the model does not bear; the first comes late."""
    scheme = m_sgc(4, 1, 2, 1)
    scheme._history = Bursty(4, burst=2, window=3, max_stragglers=1)
    lost_in_first_round(scheme, [2])
    scheme.begin(1, has_new_job=True)
    assert slots_of(scheme, 2) == [(0, 0), (1, 0)]
    scheme.close(all_but(4, [2]))
    with pytest.raises(UndecodableError, match="Job 0 lacks 1 chunks"):
        scheme.decode(0)
    assert scheme.credit(2, 0, 0)
    assert (2, 0) in scheme.decode(0).messages


def test_what_is_of_no_use_is_not_credited() -> None:
    scheme = m_sgc(4, 1, 2, 1)
    lost_in_first_round(scheme, [2])
    assert not scheme.credit(1, 0, 0)
    assert not scheme.credit(2, 5, 0)
    scheme.begin(1, has_new_job=True)
    scheme.close(all_but(4, []))
    assert not scheme.credit(2, 0, 1)
    scheme.begin(2, has_new_job=True)
    assert not scheme.credit(2, 0, 0)


def test_only_the_job_that_is_due_is_decoded() -> None:
    scheme = m_sgc(4, 1, 2, 1)
    played(scheme, [[], []], np.ones((3, 8)))
    with pytest.raises(UndecodableError, match="Job 1 is not one that the last round completed"):
        scheme.decode(1)
    scheme.begin(2, has_new_job=True)
    for job in (0, 1):
        with pytest.raises(UndecodableError, match=f"Job {job} is not one"):
            scheme.decode(job)


def test_without_coded_chunks_workers_that_owe_nothing_idle() -> None:
    scheme = m_sgc(3, 1, 2, 3)
    assert scheme.chunk_weights == (1, 1, 1)
    lost_in_first_round(scheme, [0, 1])
    scheme.begin(1, has_new_job=False)
    assert scheme.loads() == pytest.approx([1 / 3, 1 / 3, 0])
    assert scheme.tasks(2) == ()
    assert scheme.close(all_but(3, [2])) == (0,)
    assert scheme.decode(0).messages == ((0, 0), (1, 0), (2, 0))


def test_workers_that_idle_are_no_stragglers() -> None:
    """Worker 0 was slow in the round before, and the model does not bear that it is slow again."""
    scheme = m_sgc(3, 1, 2, 3)
    lost_in_first_round(scheme, [0, 1])
    assert scheme.credit(0, 0, 0)
    scheme.begin(1, has_new_job=False)
    assert scheme.loads() == pytest.approx([0, 1 / 3, 0])
    assert scheme.may_close(all_but(3, [0]))
    assert not scheme.may_close(all_but(3, [1]))


@pytest.mark.parametrize("parameters", [(12, 2, 5, 4), (12, 1, 3, 12), (9, 3, 4, 8), (8, 1, 2, 0)], ids=str)
def test_random_patterns_give_the_plain_sums(parameters: tuple[int, int, int, int]) -> None:
    rng = np.random.default_rng(0)
    num_jobs, num_workers = 30, parameters[0]
    scheme, trial = m_sgc(*parameters), m_sgc(*parameters)
    gradients = rng.standard_normal((num_jobs, len(scheme.chunk_weights)))
    missing: list[list[int]] = []
    for round_index in range(num_jobs + scheme.delay):
        trial.begin(round_index, has_new_job=round_index < num_jobs)
        order = rng.permutation(num_workers)[: rng.integers(0, num_workers)].tolist()
        while not trial.may_close(all_but(num_workers, order)):
            order.pop()
        trial.close(all_but(num_workers, order))
        missing.append(order)
    assert any(missing) == (parameters[3] > 0)
    found = played(scheme, missing, gradients)
    assert [value for _, value in found.values()] == pytest.approx(gradients.sum(axis=1), abs=1e-9)
    assert [late - job for job, (late, _) in found.items()] == [scheme.delay] * num_jobs


def test_a_resumed_scheme_knows_nothing_of_earlier_jobs() -> None:
    scheme = m_sgc(4, 1, 2, 1)
    scheme.begin(7, has_new_job=True)
    assert slots_of(scheme, 0) == [(7, 0)]
    assert scheme.close(all_but(4, [])) == ()


def test_decoded_jobs_are_forgotten() -> None:
    scheme = m_sgc(4, 2, 4, 1)
    played(scheme, [[]] * 50, np.ones((50, len(scheme.chunk_weights))))
    assert len(scheme._delivered) == scheme.delay + 1


def test_equal_sets_of_workers_are_solved_once() -> None:
    scheme = m_sgc(6, 2, 3, 2)
    played(scheme, [[]] * 10, np.ones((10, len(scheme.chunk_weights))))
    assert scheme.decoder.cache.calls == 2 * (10 - scheme.delay)
    assert scheme.decoder.cache.hits == scheme.decoder.cache.calls - 1


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ((0, 2, 1), r"Invalid burst value: 0\. Must be an integer at least 1\."),
        ((2, 2, 1), r"Invalid window value: 2\. Must be an integer at least 3\."),
        ((1, 2, 5), r"Invalid max_stragglers value: 5\. Must be an integer from 0 to 4\."),
        ((1, 2, -1), r"Invalid max_stragglers value: -1\. Must be an integer from 0 to 4\."),
    ],
)
def test_parameters_are_checked(parameters: tuple[int, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        m_sgc(4, *parameters)
