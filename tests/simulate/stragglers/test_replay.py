"""Replays against rounds worked out by hand and against plain loops."""

from collections.abc import Sequence

import numpy as np
import pytest
from plain_replay import exhaustive, last_but, plain_total_s

from orchestrator.core.coding.build import build_scheme
from orchestrator.core.coding.scheme import Scheme
from orchestrator.core.coding.uncoded import Uncoded
from orchestrator.core.coding.waiting import WaitRule
from orchestrator.core.errors import UndecodableError, UsageError
from orchestrator.simulate.stragglers.build import build, read_setting
from orchestrator.simulate.stragglers.replay import Replay, replay
from orchestrator.simulate.stragglers.trace import Trace, additive, multiplicative

FIRST = WaitRule(kind="first")


def delays(rows: Sequence[Sequence[float]]) -> Trace:
    return additive(np.array(rows, dtype=np.float64), 0.0)


def run(trace: Trace, setting: str | Scheme, rule: WaitRule = FIRST, **options: float) -> Replay:
    scheme = build(read_setting(setting), trace.num_workers) if isinstance(setting, str) else setting
    found = replay(trace, scheme, rule, **{"num_jobs": trace.num_rounds, **options})
    assert found is not None
    return found


def test_rounds_by_hand() -> None:
    trace = delays([[1, 2, 5], [3, 1, 1], [1, 1, 4], [1, 1, 9]])
    assert run(trace, "uncoded").round_s.tolist() == [5, 3, 4, 9]
    found = run(trace, "ignore:stragglers=1")
    assert found.round_s.tolist() == [2, 1, 1, 1]
    assert found.straggler_share == 4 / 12
    assert found.bursts == (2, 1)
    assert found.fastest_round_s == 1


def test_a_late_worker_begins_when_it_is_done() -> None:
    trace = delays([[1, 1, 5], [1, 1, 1], [1, 1, 1], [2, 2, 2]])
    assert run(trace, "ignore:stragglers=1", carry_over=True).round_s.tolist() == [1, 1, 1, 2]
    # Worker 2 is 4 s late after the first round and does one round after the other: 5, 6, 7, 9 s from the start.
    assert run(trace, "uncoded", carry_over=True).round_s.tolist() == [5, 1, 1, 2]
    late = delays([[1, 1, 5], [1, 4, 1], [3, 1, 1], [2, 2, 2]])
    # Done at 1, 1, 5; 2, 5, 6; 8, 6, 7; 10, 9, 9 s from the start, where rounds begin at 0, 1, 5, 7.
    assert run(late, "ignore:stragglers=1", carry_over=True).round_s.tolist() == [1, 4, 2, 2]


def test_the_worked_example_of_m_sgc() -> None:
    # Four workers, B = 1, W = 2, lambda = 1; worker 2 is slow in round 0, worker 0 in round 2.
    trace = delays([[1, 1, 9, 1], [1, 1, 1, 1], [9, 1, 1, 1], [1, 1, 1, 1]])
    rule = WaitRule(kind="deadline", mu=1.0, wait="min")
    found = run(trace, "m_sgc:burst=1,window=2,max_stragglers=1", rule, num_jobs=3, num_models=2, decodes=True)
    assert found.round_s.tolist() == [2, 1, 2, 1]
    assert (found.num_waited_out, found.num_undecoded, found.max_in_flight) == (0, 0, 2)
    assert (found.straggler_share, found.bursts) == (2 / 16, (2,))
    assert found.num_survivor_sets == 2  # job 0 has no second message of worker 2; jobs 1 and 2 lack that of worker 0


def test_a_round_with_nothing_to_do_takes_no_time() -> None:
    rule = WaitRule(kind="deadline", mu=1.0, wait="min")
    found = run(delays([[1, 1, 1, 1]] * 4), "sr_sgc:burst=1,window=2,max_stragglers=2", rule, num_jobs=3, num_models=2)
    assert found.round_s.tolist() == [1, 1, 1, 0]
    assert found.num_skipped == 1
    assert found.fastest_round_s == 1


def test_workers_that_idle_are_neither_late_nor_missing() -> None:
    # Six workers, B = 2, W = 3, lambda = 4. Jobs 0 and 1 lack a message each after their own rounds. Worker 0 makes up
    # for the one in round 2, while worker 1 idles, and worker 1 for the other in round 3.
    slow, idle = 2.5, 50.0
    trace = delays(
        [
            [slow, slow, slow, 1, 1, 1],
            [1, slow, slow, slow, 1, 1],
            [1, idle, idle, idle, idle, idle],
            [idle, 1, idle, idle, idle, idle],
        ]
    )
    rule = WaitRule(kind="deadline", mu=1.0, wait="min")
    setting = "sr_sgc:burst=2,window=3,max_stragglers=4"
    found = run(trace, setting, rule, num_jobs=2, num_models=3, carry_over=True, decodes=True)
    assert found.round_s.tolist() == [2, 2, 1, 1]
    assert found.straggler_share == 6 / 14
    assert found.bursts == (2, 2)
    assert (found.num_undecoded, found.max_in_flight, found.num_skipped) == (0, 2, 0)


def test_survivor_sets_are_those_that_a_decoder_would_meet() -> None:
    trace = delays([[1, 1, 9], [1, 1, 9], [9, 1, 1]])
    found = run(trace, "cyclic:stragglers=1", decodes=True)
    assert (found.num_undecoded, found.num_survivor_sets) == (0, 2)


@pytest.mark.parametrize("carry_over", [False, True])
@pytest.mark.parametrize("has_work", [False, True])
def test_every_scheme_of_single_rounds_against_plain_loops(carry_over: bool, has_work: bool) -> None:
    rng = np.random.default_rng(5)
    factors = rng.exponential(1.0, (30, 6)) + 0.5
    work = rng.uniform(0.5, 2.0, (30, 6)) if has_work else np.ones((30, 6))
    trace = multiplicative(factors, work_s=0.2, fixed_s=0.1)
    if has_work:
        trace = Trace(fixed_s=trace.fixed_s, per_batch_s=trace.per_batch_s, batch_work=work)
    expected = exhaustive((0.2 * factors).tolist(), work.tolist(), fixed_s=0.1, carry_over=carry_over)
    assert len(expected) == 11
    for setting, total_s in expected.items():
        assert run(trace, setting, carry_over=carry_over).total_s == pytest.approx(total_s, rel=1e-9), setting


def test_slow_data_is_slow_wherever_it_is_computed() -> None:
    work = np.ones((1, 4))
    work[0, 0] = 5.0
    even = multiplicative(np.ones((1, 4)), work_s=1.0, fixed_s=0.0)
    trace = Trace(fixed_s=even.fixed_s, per_batch_s=even.per_batch_s, batch_work=work)
    assert run(trace, "uncoded").total_s == pytest.approx(5)
    assert run(trace, "fractional:stragglers=1").total_s == pytest.approx(6)
    assert trace.uncoded_s().tolist() == [[5, 1, 1, 1]]


def test_the_data_of_a_job_come_with_it_into_later_rounds() -> None:
    # Job 0 has all of its work in the second half of its batch, which is where M-SGC's coded chunks lie.
    work = np.array([[0, 0, 2, 2], [1, 1, 1, 1], [1, 1, 1, 1]], dtype=np.float64)
    even = multiplicative(np.ones((3, 4)), work_s=1.0, fixed_s=0.0)
    trace = Trace(fixed_s=even.fixed_s, per_batch_s=even.per_batch_s, batch_work=work)
    found = run(trace, "m_sgc:burst=1,window=2,max_stragglers=0", num_jobs=1, num_models=2)
    # Half of the batch is uncoded, in the round of the job; it has no work at all. The other half is twice as much.
    assert found.round_s.tolist() == pytest.approx([0, 1])


def test_backup_workers_draw_more_than_the_batch() -> None:
    trace = multiplicative(np.ones((1, 4)), work_s=1.0, fixed_s=0.0)
    with_work = Trace(fixed_s=trace.fixed_s, per_batch_s=trace.per_batch_s, batch_work=np.ones((1, 4)))
    for known in (trace, with_work):
        assert run(known, "backup:backups=1").total_s == pytest.approx(4 / 3)


def test_a_limit_ends_a_replay() -> None:
    trace = delays([[1, 1]] * 4)
    assert replay(trace, build_scheme("uncoded", 2), FIRST, num_jobs=4, limit_s=3.5) is None
    assert replay(trace, build_scheme("uncoded", 2), FIRST, num_jobs=4, limit_s=4) is not None


@pytest.mark.parametrize(("num_models", "is_enough"), [(1, False), (2, False), (3, True)])
def test_delayed_decoding_needs_more_models(num_models: int, is_enough: bool) -> None:
    trace = delays([[1, 1, 1]] * 6)
    setting = "m_sgc:burst=1,window=3,max_stragglers=1"
    if is_enough:
        assert run(trace, setting, num_jobs=4, num_models=num_models).max_in_flight == 3
        return
    with pytest.raises(UsageError, match=f"models: {num_models} cannot .* 2 rounds after its own; at least 3"):
        run(trace, setting, num_jobs=4, num_models=num_models)


def test_a_trace_that_is_too_short() -> None:
    with pytest.raises(UsageError, match=r"jobs: 3 jobs, decoded .* need 3 rounds; the trace has 2\."):
        run(delays([[1, 1]] * 2), "uncoded", num_jobs=3)


class Forgetful(Uncoded):
    """Never says that a job is decoded in odd rounds, and cannot decode that of round 2."""

    def close(self, arrived):  # type: ignore[no-untyped-def]
        closed = super().close(arrived)
        return closed if closed[0] % 2 == 0 else ()

    def decode(self, job):  # type: ignore[no-untyped-def]
        if job == 2:
            raise UndecodableError("no")
        return super().decode(job)


def test_jobs_that_are_not_decoded_are_counted() -> None:
    trace = delays([[1, 1]] * 6)
    assert run(trace, Forgetful(2)).num_undecoded == 3
    found = run(trace, Forgetful(2), decodes=True)
    assert (found.num_undecoded, found.num_survivor_sets) == (4, 1)


def test_a_code_that_cannot_be_drawn_is_the_users_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.core.coding.cyclic_code.MAX_CODE_RESIDUAL", {True: 0.0, False: 0.0})
    with pytest.raises(UsageError, match=r"Invalid stragglers value: 3\. Must be less for a cyclic code of 11 "):
        run(delays([[1.0] * 11]), "cyclic:stragglers=3", decodes=True)


def test_the_plain_loops_by_hand() -> None:
    total_s = plain_total_s([[1, 3], [2, 1]], [[1, 1], [1, 2]], lambda t, worker: [worker], 1.0, last_but(0))
    assert total_s == 3 + 2
