"""The largest stable rate against the roots of the characteristic polynomial."""

import math

import numpy as np
import pytest

from orchestrator.core.stability import largest_stable_rate


def largest_root(delay: int, momentum: float, product: float) -> float:
    """Of ``z^(D+1) - (1 + m) z^D + m z^(D-1) + rate x curvature``."""
    if delay == 0:
        return float(np.abs(np.roots([1, product - 1 - momentum, momentum])).max())
    coefficients = np.zeros(delay + 2)
    coefficients[:3] = 1, -1 - momentum, momentum
    coefficients[-1] += product
    return float(np.abs(np.roots(coefficients)).max())


@pytest.mark.parametrize(
    ("momentum", "bounds"),
    [
        (0.0, {0: 2, 1: 1, 2: 0.61803, 4: 0.34730, 8: 0.18454}),
        (0.9, {0: 3.8, 1: 0.1, 4: 0.0265, 8: 0.01394, 16: 0.00749, 32: 0.00406}),
        (0.99, {0: 3.98, 1: 0.01, 4: 0.00252, 8: 0.00127, 16: 0.00064, 32: 0.00033}),
    ],
)
def test_known_bounds(momentum: float, bounds: dict[int, float]) -> None:
    for delay, bound in bounds.items():
        assert largest_stable_rate(delay, momentum) == pytest.approx(bound, abs=1e-4)
        assert largest_stable_rate(delay, momentum) == pytest.approx(bound, rel=1.3e-2)


@pytest.mark.parametrize("delay", [0, 1, 2, 3, 10, 100, 10_000])
def test_without_momentum(delay: int) -> None:
    assert largest_stable_rate(delay, 0.0) == pytest.approx(2 * math.sin(math.pi / (4 * delay + 2)), rel=1e-12)


@pytest.mark.parametrize("delay", [0, 1, 2, 7, 30])
@pytest.mark.parametrize("momentum", [0.0, 0.3, 0.9, 0.999])
def test_roots_leave_the_unit_circle_there(delay: int, momentum: float) -> None:
    bound = largest_stable_rate(delay, momentum)
    assert largest_root(delay, momentum, 0.999 * bound) < 1 < largest_root(delay, momentum, 1.001 * bound)
    for share in (0.1, 0.5, 0.9):
        assert largest_root(delay, momentum, share * bound) < 1


@pytest.mark.parametrize(("delay", "momentum"), [(-1, 0.9), (1, 1.0), (1, -0.1), (1, math.nan)])
def test_refused(delay: int, momentum: float) -> None:
    with pytest.raises(ValueError, match="No bound for delay"):
        largest_stable_rate(delay, momentum)
