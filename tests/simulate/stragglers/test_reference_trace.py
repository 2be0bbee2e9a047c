"""The reference trace, whose numbers every program computes alike."""

import numpy as np
import pytest

from orchestrator.simulate.stragglers.patterns import Pattern, late_workers
from orchestrator.simulate.stragglers.reference import RARE_S, reference, uniform


def test_the_hash() -> None:
    workers = np.arange(2, dtype=np.uint64)
    assert uniform(0, 0, 0, workers) == pytest.approx([0.88331081, 0.56656158], abs=5e-9)
    assert uniform(0, 0, 1, workers)[0] == pytest.approx(0.03776094, abs=5e-9)


def mixed_by_definition(key: int) -> float:
    """The finalizer of splitmix64 in integers of any size."""
    z = (key + 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return ((z ^ (z >> 31)) >> 11) / 2**53


@pytest.mark.parametrize(("seed", "stream", "t"), [(1, 3, 499), (2**20 - 1, 15, 2**24 - 1)])
def test_the_hash_of_the_last_places(seed: int, stream: int, t: int) -> None:
    workers = np.array([0, 255, 65535], dtype=np.uint64)
    expected = [mixed_by_definition(seed * 2**44 + stream * 2**40 + t * 2**16 + int(i)) for i in workers]
    assert uniform(seed, stream, t, workers).tolist() == expected


def test_delays_and_their_pattern() -> None:
    delays_s = reference(100, 256, seed=1).fixed_s
    assert delays_s[0, :4] == pytest.approx([0.589760, 0.613901, 0.648491, 0.762683], abs=5e-7)
    assert delays_s.sum() == pytest.approx(17651.539, abs=5e-4)
    assert np.count_nonzero(delays_s >= 0.555 * 2.02) == 1278
    pattern = Pattern.of(delays_s, 1.0)
    assert pattern.late_share == pytest.approx(0.0473828, abs=5e-8)
    assert pattern.bursts == (991, 88, 11, 2, 1)
    assert np.count_nonzero(late_workers(delays_s, 1.0)) == 991 + 2 * 88 + 3 * 11 + 4 * 2 + 5


def test_a_longer_trace_begins_like_a_shorter_one() -> None:
    assert np.array_equal(reference(40, 16).fixed_s[:25], reference(25, 16).fixed_s)


def test_rare_events_are_added() -> None:
    plain, rare = reference(200, 256).fixed_s, reference(200, 256, rare=1e-3).fixed_s
    added = (rare - plain)[rare != plain]
    assert added == pytest.approx(RARE_S)
    assert 20 < len(added) < 90


def test_a_batch_takes_its_share_of_the_slope() -> None:
    trace = reference(3, 4)
    shares = np.array([0.0, 0.25, 0.5, 1.0])
    assert trace.seconds(2, shares) - trace.fixed_s[2] == pytest.approx(2.2013 * shares)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rare": 1.5}, r"Invalid rare value: 1\.5\. Must be from 0 to 1\."),
        ({"seed": -1}, r"Invalid seed value: -1\."),
        ({"num_workers": 65537}, r"Invalid workers value: 65537\."),
        ({"num_rounds": 0}, r"Invalid rounds value: 0\."),
    ],
)
def test_arguments_out_of_range(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        reference(**{"num_rounds": 2, "num_workers": 2, **arguments})
