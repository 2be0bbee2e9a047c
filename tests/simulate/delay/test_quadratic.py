"""Trainings of the quadratic: against plain ones, exact roots, and what braking was measured to do."""

import numpy as np
import pytest
from plain_quadratic import growth as plain_growth

from orchestrator.core.stability import largest_stable_rate
from orchestrator.simulate.delay.compensations import DcAsgd, GapAware
from orchestrator.simulate.delay.events import PushRules, fixed_delay, simulate
from orchestrator.simulate.delay.quadratic import Grid, HeatMap, Method, Quadratic, exact_share, heat_map, nearest
from orchestrator.simulate.delay.times import GammaTimes

SMALL_GRID = Grid(rates=np.array([0.003, 0.05, 0.4]), momenta=np.array([0.0, 0.6, 0.9]))
COARSE = Grid(rates=Grid().rates[::3], momenta=Grid().momenta[::2])


def one_cell(rate: float, momentum: float) -> Grid:
    return Grid(rates=np.array([rate]), momenta=np.array([momentum]))


@pytest.mark.parametrize(
    ("name", "rho", "num_tensors"),
    [
        (None, 0.0, 1),
        (None, 0.5, 1),
        (None, 2.0, 3),
        ("staleness_aware", 0.0, 1),
        ("dc_asgd", 0.0, 1),
        ("gap_aware", 0.0, 1),
        ("dana_zero", 0.0, 1),
        ("weight_prediction", 0.0, 1),
        ("gap_aware", 0.5, 2),
        ("dana_zero", 2.0, 6),
    ],
)
@pytest.mark.parametrize("fixed", [False, True])
def test_equals_plain_trainings(
    name: str | None, rho: float, num_tensors: int, fixed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It is relative to the present size, which the plain training never rescales.
    monkeypatch.setattr(GapAware, "eps", 0.0)
    times = GammaTimes(num_workers=4, cv=0.5, slow={1: 3.0}, seed=1)
    order = fixed_delay(60, 3) if fixed else simulate(times, PushRules(num_updates=60)).order
    problem = Quadratic(num_weights=6, condition=30, seed=5)
    method = Method(rho=rho, num_tensors=num_tensors, compensation=name)
    found = heat_map(problem, SMALL_GRID, method, order)
    start = np.random.default_rng(5).standard_normal(6).tolist()
    tensors = [range(6 * t // num_tensors, 6 * (t + 1) // num_tensors) for t in range(num_tensors)]
    for row, rate in enumerate(SMALL_GRID.rates.tolist()):
        for column, momentum in enumerate(SMALL_GRID.momenta.tolist()):
            expected = plain_growth(
                problem.curvatures().tolist(),
                start,
                order,
                rate=rate,
                momentum=momentum,
                name=name or "",
                rho=rho,
                tensors=tensors,
            )
            assert found.growth[row, column] == pytest.approx(expected, rel=1e-6, abs=1e-9), (rate, momentum)


def test_several_pushes_to_an_update() -> None:
    order = simulate(GammaTimes(num_workers=5, cv=0.5, seed=1), PushRules(num_updates=40, pushes_per_update=3)).order
    problem = Quadratic(num_weights=4, condition=10)
    start = np.random.default_rng(0).standard_normal(4).tolist()
    for name in ("", "staleness_aware"):
        found = heat_map(problem, one_cell(0.1, 0.5), Method(rho=1.0, compensation=name or None), order)
        expected = plain_growth(
            problem.curvatures().tolist(), start, order, rate=0.1, momentum=0.5, name=name, rho=1.0, tensors=[range(4)]
        )
        assert found.growth[0, 0] == pytest.approx(expected, rel=1e-6)
    with pytest.raises(ValueError, match="gap_aware takes one push to an update"):
        heat_map(problem, one_cell(0.1, 0.5), Method(compensation="gap_aware"), order)


@pytest.mark.parametrize(("delay", "rate", "momentum"), [(0, 0.05, 0.9), (1, 0.3, 0.0), (4, 0.02, 0.9), (9, 0.3, 0.0)])
def test_growth_is_that_of_the_largest_root(delay: int, rate: float, momentum: float) -> None:
    polynomial = np.zeros(delay + 3)
    polynomial[:3] = 1, -1 - momentum, momentum
    polynomial[delay + 1] += rate  # times z, so that a delay of 0 has the same form
    expected = np.log(np.abs(np.roots(polynomial)).max())
    # What DC-ASGD adds vanishes with the weights; where they grow it does not.
    for compensation in (None, "dc_asgd") if expected < 0 else (None,):
        method = Method(compensation=compensation)
        found = heat_map(Quadratic(num_weights=1), one_cell(rate, momentum), method, fixed_delay(2000, delay))
        assert found.growth[0, 0] == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("compensation", [None, "dc_asgd", "gap_aware"])
def test_overflow_and_exact_zero(compensation: str | None) -> None:
    grid = Grid(rates=np.array([1.0, 1e12]), momenta=np.array([0.0]))
    found = heat_map(Quadratic(num_weights=1), grid, Method(compensation=compensation), fixed_delay(100, 0))
    assert found.growth[:, 0].tolist() == [-np.inf, np.inf]
    assert found.half_life[1, 0] == np.inf
    assert found.converged[:, 0].tolist() == [True, False]
    assert found.share == 0.5
    assert found.largest_rate(0.0) == 1.0


@pytest.mark.parametrize("delay", [1, 4, 16])
def test_plain_momentum_keeps_its_exact_bounds(delay: int) -> None:
    found = heat_map(Quadratic(), COARSE, Method(), fixed_delay(2000, delay))
    bounds = np.array([largest_stable_rate(delay, momentum) for momentum in COARSE.momenta.tolist()])
    # Close to the bound and to a momentum of 1 it takes more updates to see which way it goes.
    is_clear = (np.abs(np.log(COARSE.rates[:, None] / bounds)) > 0.1) & (COARSE.momenta < 0.98)
    assert (found.converged == (COARSE.rates[:, None] < bounds))[is_clear].all()
    assert found.share == pytest.approx(exact_share(COARSE, delay), abs=0.04)


def test_braking_widens_the_stable_range_with_delay_and_narrows_it_without() -> None:
    def trained(delay: int, rho: float) -> HeatMap:
        return heat_map(Quadratic(), COARSE, Method(rho=rho), fixed_delay(2000, delay))

    assert trained(0, 2.0).share < trained(0, 0.0).share
    for delay in (4, 16, 64):
        plain, braked = trained(delay, 0.0), trained(delay, 2.0)
        assert braked.share >= plain.share + 0.08
        plain_rate, braked_rate = plain.largest_rate(0.9), braked.largest_rate(0.9)
        assert plain_rate is not None
        assert braked_rate is not None
        assert braked_rate >= 5 * plain_rate


@pytest.mark.parametrize(
    ("rho", "share", "half_life", "largest"),
    [(0.0, 0.548, 815, 0.025), (0.5, 0.588, 594, 0.040), (2.0, 0.670, 588, 0.20)],
)
def test_measured_before(rho: float, share: float, half_life: float, largest: float) -> None:
    """A delay of 4 in an independent program with other weights to begin with."""
    found = heat_map(Quadratic(), Grid(), Method(rho=rho), fixed_delay(2000, 4))
    assert found.share == pytest.approx(share, abs=0.01)
    assert found.half_life.min() == pytest.approx(half_life, rel=0.2)
    assert found.largest_rate(0.9) == pytest.approx(largest, rel=0.01)


def test_grid() -> None:
    grid = Grid()
    assert (len(grid.rates), len(grid.momenta)) == (56, 13)
    assert (grid.rates[0], grid.rates[-1]) == pytest.approx((1e-5, 10**0.5))
    assert grid.momenta[nearest(grid.momenta, 0.91)] == pytest.approx(0.9)
    assert grid.momenta[nearest(grid.momenta, 0.0)] == 0.0
    assert grid.momenta[nearest(grid.momenta, 0.9999)] == pytest.approx(0.999)
    assert exact_share(grid, 0) == pytest.approx(0.996, abs=5e-4)


def test_refused() -> None:
    with pytest.raises(ValueError, match="Invalid rho value: -1"):
        Method(rho=-1)
    with pytest.raises(ValueError, match="Invalid tensors value: 33"):
        heat_map(Quadratic(), COARSE, Method(num_tensors=33), fixed_delay(40, 0))
    with pytest.raises(ValueError, match="Invalid updates value: 19"):
        heat_map(Quadratic(), COARSE, Method(), fixed_delay(19, 0))
    with pytest.raises(ValueError, match=r"Invalid condition value: 0\.5"):
        Quadratic(condition=0.5)


def test_weights_that_have_become_tiny_stay_where_dc_asgd_adds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DcAsgd, "strength", 20.0)  # harmless at the weights to begin with, 0.13, and not at 1
    found = heat_map(Quadratic(num_weights=1), one_cell(0.3, 0.0), Method(compensation="dc_asgd"), fixed_delay(2000, 1))
    assert found.growth[0, 0] == pytest.approx(np.log(0.3) / 2, abs=2e-3)
