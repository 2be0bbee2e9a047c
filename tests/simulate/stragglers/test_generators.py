"""Made-up traces have the statistics that they are made for."""

import numpy as np
import pytest

from orchestrator.core.errors import UsageError
from orchestrator.simulate.stragglers.build import GENERATORS, generate
from orchestrator.simulate.stragglers.generators import (
    gilbert_elliott,
    gpu_fail_slow,
    lambda_functions,
    slow_states,
)
from orchestrator.simulate.stragglers.patterns import Pattern, burst_counts, late_workers


def transitions(states: np.ndarray) -> tuple[float, float]:
    """Shares of good rounds followed by a slow one and of slow rounds followed by a good one."""
    before, after = states[:-1], states[1:]
    return float(after[~before].mean()), float((~after[before]).mean())


def test_chains_of_two_states() -> None:
    states = slow_states(np.random.default_rng(0), 4000, 0.1, 0.4, 50)
    assert transitions(states) == pytest.approx((0.1, 0.4), rel=0.03)
    assert states.mean() == pytest.approx(0.2, rel=0.03)
    starts = slow_states(np.random.default_rng(1), 1, 0.1, 0.4, 20_000)
    assert starts.mean() == pytest.approx(0.2, rel=0.05)


def test_slow_in_bursts_by_one_factor() -> None:
    trace = gilbert_elliott(500, 64, seed=0, factor=3.0, fixed_s=0.5, jitter=0.05)
    assert np.all(trace.fixed_s == 0.5)
    own_s = trace.uncoded_s() - 0.5
    is_slow = own_s > 1.7
    assert own_s[~is_slow].mean() == pytest.approx(1, rel=0.01)
    assert own_s[is_slow].mean() == pytest.approx(3, rel=0.02)
    assert own_s[~is_slow].min() == pytest.approx(0.95, abs=1e-4)
    assert own_s[~is_slow].max() == pytest.approx(1.05, abs=1e-4)
    assert transitions(is_slow) == pytest.approx((0.042, 0.845), rel=0.1)
    # What a worker has to compute takes in proportion longer.
    double = np.full(64, 2 / 64)
    assert trace.seconds(7, double) - 0.5 == pytest.approx(2 * own_s[7])


def test_without_jitter_times_are_exact() -> None:
    assert set(np.unique(gilbert_elliott(50, 8, seed=0, factor=2, jitter=0).per_batch_s)) == {8.0, 16.0}


def test_lambda_functions_have_the_published_statistics() -> None:
    trace = lambda_functions(400, 256, seed=0)
    late = late_workers(trace.fixed_s, 1.0)
    assert late.mean() == pytest.approx(0.050, abs=0.005)
    assert transitions(late) == pytest.approx((0.0478, 0.901), rel=0.1)
    fastest = trace.fixed_s.min(axis=1)
    assert fastest.min() > 0.53
    assert fastest.max() < 0.63
    ratio = trace.fixed_s / fastest[:, None]
    assert np.quantile(ratio[~late], [0.5, 0.9, 0.99]) == pytest.approx([1.16, 1.35, 1.90], rel=0.03)
    assert np.quantile(ratio[late], [0.5, 0.9, 0.99]) == pytest.approx([2.46, 2.92, 3.29], rel=0.03)
    often = np.sort(late.sum(axis=0))[::-1]
    assert often[:32].sum() / often.sum() == pytest.approx(0.5, abs=0.08)


def test_cold_starts_are_added() -> None:
    plain, cold = lambda_functions(300, 64, seed=0), lambda_functions(300, 64, seed=0, cold_start=0.002)
    added = cold.fixed_s - plain.fixed_s
    assert set(np.round(np.unique(added), 6)) == {0.0, 20.0}
    assert 15 < np.count_nonzero(added) < 70


def test_gpus_are_slow_rarely_long_and_by_little() -> None:
    trace = gpu_fail_slow(4000, 400, seed=0, share=0.02, mean_rounds=500, jitter=0.0)
    factors = trace.per_batch_s / 400
    is_slow = factors > 1
    assert is_slow.mean() == pytest.approx(0.02, rel=0.3)
    assert factors[is_slow].min() >= 1.1
    assert factors.max() <= 2.0
    _, recovers = transitions(is_slow)
    assert recovers == pytest.approx(1 / 500, rel=0.25)
    # The factor stays the same through a stretch, and differs between stretches.
    goes_on = is_slow[1:] & is_slow[:-1]
    assert np.array_equal(factors[1:][goes_on], factors[:-1][goes_on])
    assert len(np.unique(factors)) > 50


@pytest.mark.parametrize("kind", GENERATORS)
def test_a_seed_gives_one_trace(kind: str) -> None:
    once, again, other = (generate(kind, 20, 8, seed=seed).uncoded_s() for seed in (3, 3, 4))
    assert np.array_equal(once, again)
    assert not np.array_equal(once, other)
    assert once.shape == (20, 8)
    assert (once > 0).all()


def test_parameters_are_read() -> None:
    trace = generate("gilbert_elliott:factor=9,jitter=0,fixed_s=0.25", 40, 4, seed=0)
    assert set(np.unique(trace.per_batch_s)) == {4.0, 36.0}
    assert np.all(trace.fixed_s == 0.25)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gauss", "gauss: there is no kind of trace gauss; legal are reference, gilbert_elliott, lambda"),
        ("lambda:factor=2", "lambda:factor=2: lambda has no factor; legal are cold_start, per_batch_s."),
        ("lambda:seed=2", "lambda:seed=2: lambda has no seed"),
        ("lambda:cold_start=often", "cold_start is often; it must be a number."),
        ("lambda:cold_start=2", "Invalid cold_start value: 2. Must be from 0 to 1."),
        ("lambda:per_batch_s=nan", "Invalid per_batch_s value: nan. Must be a finite number of at least 0."),
        ("gilbert_elliott:factor=0.5", "Invalid factor value: 0.5. Must be a finite number of at least 1."),
        ("gilbert_elliott:leave=0", "Invalid leave value: 0. Must be from 1e-09 to 1."),
        ("gpu_fail_slow:least=3,most=2", "Invalid most value: 2. Must be a finite number of at least 3."),
        ("gpu_fail_slow:share=0.9", "Invalid share value: 0.9. Must be from 0 to 0.5."),
        ("lambda:", "lambda:: must be NAME or NAME:KEY=VALUE"),
        ("lambda:cold_start=0,cold_start=0", "must be NAME or NAME:KEY=VALUE,KEY=VALUE with each key once."),
    ],
)
def test_what_is_no_trace(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        generate(text, 10, 4, seed=0)
    assert message in str(caught.value)


def test_bursts_are_counted_by_length() -> None:
    late = np.array([[1, 0, 1], [1, 0, 0], [0, 0, 1], [1, 0, 1], [1, 0, 1]], dtype=np.bool_)
    assert burst_counts(late) == (1, 2, 1)
    assert burst_counts(np.zeros((3, 2), dtype=np.bool_)) == ()


def test_a_pattern_is_relative_to_the_fastest_of_each_round() -> None:
    pattern = Pattern.of(np.array([[1.0, 2.0, 2.1], [10.0, 15.0, 30.0]]), 1.0)
    assert pattern.late_share == 2 / 6
    assert pattern.bursts == (0, 1)
    assert pattern.slowest_ratio == pytest.approx((2.1 / 2 + 2) / 2)
