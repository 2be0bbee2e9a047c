"""The annealing law against its definition and against curves made from known numbers."""

from dataclasses import astuple, replace

import numpy as np
import pytest
from loss_curves import NUM_STEPS, PEAK, TRUTH, WARMUP_STEPS, closed_form_loss, made, rates

from orchestrator.core.errors import UsageError
from orchestrator.simulate.annealing_law import AnnealingLaw, Curve, areas, fit
from orchestrator.simulate.comparison import compare, doubts

SCHEDULES = ("constant", "cosine", "linear", "wsd")


def areas_by_definition(lr: list[float], momentum: float, warmup_steps: int) -> tuple[list[float], list[float]]:
    """S1 = sum_i eta_i and S2 = sum_i sum_{k <= i} momentum^(i - k) (eta_{k-1} - eta_k), after the warmup."""
    s1, s2 = [], []
    for last in range(len(lr)):
        s1.append(sum(lr[: last + 1]))
        total = 0.0
        for i in range(last + 1):
            for k in range(max(1, warmup_steps), i + 1):
                total += momentum ** (i - k) * (lr[k - 1] - lr[k])
        s2.append(total)
    return s1, s2


@pytest.mark.parametrize("momentum", [0.0, 0.9, 0.999])
@pytest.mark.parametrize("warmup_steps", [0, 1, 7])
def test_areas_are_those_of_the_definition(momentum: float, warmup_steps: int) -> None:
    lr = np.random.default_rng(0).uniform(0, 1, 40)
    s1, s2 = areas(lr, momentum, warmup_steps=warmup_steps)
    expected_s1, expected_s2 = areas_by_definition(lr.tolist(), momentum, warmup_steps)
    assert s1 == pytest.approx(expected_s1)
    assert s2 == pytest.approx(expected_s2)


def test_areas_worked_out_by_hand() -> None:
    # Drops 0, 0, 1, 1, -1; momenta 0, 0, 1, 1.5, -0.25.
    s1, s2 = areas(np.array([3.0, 3.0, 2.0, 1.0, 2.0]), 0.5)
    assert s1.tolist() == [3, 6, 8, 9, 11]
    assert s2.tolist() == [0, 0, 1, 2.5, 2.25]


def test_a_warmup_counts_in_s1_and_its_rise_is_no_annealing() -> None:
    s1, s2 = areas(np.array([1.0, 2.0, 3.0, 3.0, 2.0]), 0.5, warmup_steps=3)
    assert s1.tolist() == [1, 3, 6, 9, 11]
    assert s2.tolist() == [0, 0, 0, 0, 1]


def test_without_momentum_s2_is_how_far_the_rate_has_fallen() -> None:
    lr = rates("cosine")
    _, s2 = areas(lr, 0.0, warmup_steps=WARMUP_STEPS)
    assert s2[WARMUP_STEPS:] == pytest.approx(PEAK - lr[WARMUP_STEPS:])


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_loss_is_that_of_the_closed_form(schedule: str) -> None:
    lr = rates(schedule)
    expected = closed_form_loss(TRUTH, lr, WARMUP_STEPS)
    assert TRUTH.loss(lr, warmup_steps=WARMUP_STEPS) == pytest.approx(expected, rel=1e-9)


def test_a_constant_rate_is_the_power_law_alone() -> None:
    predicted = TRUTH.loss(np.full(100, PEAK))
    assert predicted == pytest.approx(2.5 + 0.6 * (PEAK * np.arange(1, 101)) ** -0.45)


@pytest.mark.parametrize("fitted", [("cosine",), ("constant", "cosine"), ("wsd", "linear")], ids=" and ".join)
def test_known_numbers_are_recovered(fitted: tuple[str, ...]) -> None:
    law = fit([made(schedule) for schedule in fitted])
    assert astuple(law) == pytest.approx(astuple(TRUTH), rel=1e-3)


@pytest.mark.parametrize("unit", [1e-3, 1e3])
def test_the_unit_of_the_rate_does_not_matter(unit: float) -> None:
    curves = [replace(curve, lr=curve.lr * unit) for curve in (made("constant"), made("cosine"))]
    law = fit(curves)
    assert (law.l0, law.alpha) == pytest.approx((TRUTH.l0, TRUTH.alpha), rel=1e-3)
    assert (law.a, law.c) == pytest.approx((TRUTH.a * unit**TRUTH.alpha, TRUTH.c / unit), rel=1e-3)


def test_noisy_curves_give_the_numbers_and_predict_unseen_schedules() -> None:
    law = fit([made("constant", noise=0.003), made("cosine", noise=0.003)])
    assert astuple(law) == pytest.approx(astuple(TRUTH), rel=0.05)
    for schedule in ("wsd", "linear"):
        assert law.relative_errors(made(schedule)).max() < 2e-3
    assert law.relative_errors(made("cosine", num_steps=2 * NUM_STEPS)).max() < 3e-3


def test_outliers_do_not_move_the_fit() -> None:
    curves = [made("constant"), made("cosine")]
    for curve in curves:
        curve.loss[::15] *= 1.5
    law = fit(curves)
    assert law.relative_errors(made("wsd")).max() < 2e-3


def test_losses_of_the_warmup_are_not_fitted() -> None:
    curves = [made("constant"), made("cosine")]
    for curve in curves:
        curve.loss[curve.steps <= WARMUP_STEPS] = 100.0
    assert astuple(fit(curves)) == pytest.approx(astuple(TRUTH), rel=1e-3)


def test_each_curve_has_the_same_weight_however_often_it_was_logged() -> None:
    # So little apart that the Huber loss is a square: the best law is the mean of the two curves.
    other = replace(TRUTH, l0=TRUTH.l0 + 0.002)
    law = fit([made("cosine", every=100), made("cosine", law=other, every=10)])
    lr = rates("cosine")
    mean = closed_form_loss(replace(TRUTH, l0=TRUTH.l0 + 0.001), lr, WARMUP_STEPS)
    predicted = law.loss(lr, warmup_steps=WARMUP_STEPS)
    assert predicted[1000:] == pytest.approx(mean[1000:], abs=2e-4)


def test_long_curves_are_fitted_on_some_of_their_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.simulate.annealing_law.MAX_POINTS", 50)
    law = fit([made("constant", every=1), made("cosine", every=1)])
    assert astuple(law) == pytest.approx(astuple(TRUTH), rel=1e-3)


def test_a_fit_is_the_same_each_time() -> None:
    curves = [made("constant", noise=0.003), made("cosine", noise=0.003)]
    assert fit(curves) == fit(curves)


def test_without_a_falling_rate_there_is_no_fit() -> None:
    with pytest.raises(UsageError, match="the rate of constant never falls after the warmup"):
        fit([made("constant")])


def test_too_few_losses_are_no_curve() -> None:
    with pytest.raises(UsageError, match="cosine: 6 losses after the 200 steps of warmup; at least 10"):
        fit([made("cosine", every=500)])


def test_a_training_that_does_not_move_is_no_curve() -> None:
    curve = made("cosine")
    with pytest.raises(UsageError, match="cosine: the rate is 0 up to step 210"):
        fit([replace(curve, lr=np.zeros(NUM_STEPS)), curve])


def test_a_warmup_from_exactly_zero_is_predicted() -> None:
    predicted = TRUTH.loss(np.array([0.0, 1.0]), warmup_steps=2)
    assert predicted[0] == np.inf
    assert predicted[1] == pytest.approx(3.1)


def test_comparison_with_a_curve_that_was_observed() -> None:
    curve = made("wsd", every=1)
    curve.loss[-30:] *= 1.25
    compared = compare(TRUTH, curve)
    assert (compared.name, compared.steps, compared.warmup_steps) == ("wsd", NUM_STEPS, WARMUP_STEPS)
    assert compared.peak_lr == pytest.approx(PEAK)
    assert compared.final_observed == pytest.approx(1.25 * compared.final_predicted)
    assert compared.final_error == pytest.approx(-0.2)
    assert compared.errors is not None
    assert compared.errors.points == NUM_STEPS - WARMUP_STEPS
    assert compared.errors.max == pytest.approx(0.2)
    assert compared.errors.mean == pytest.approx(0.2 * 30 / 2800)
    assert compared.errors.median == pytest.approx(0, abs=1e-9)


def test_comparison_with_a_schedule_that_nobody_has_run() -> None:
    lr = rates("linear")
    compared = compare(TRUTH, Curve("plan", lr, WARMUP_STEPS, np.empty(0, int), np.empty(0)))
    assert compared.final_predicted == pytest.approx(closed_form_loss(TRUTH, lr, WARMUP_STEPS)[-30:].mean())
    assert (compared.final_observed, compared.final_error, compared.errors) == (None, None, None)


def test_doubts() -> None:
    fitted = [made("constant"), made("cosine")]
    assert list(doubts(TRUTH, fitted, [made("wsd")])) == []
    at_bounds = AnnealingLaw(l0=0.0, a=1.0, alpha=0.2, c=0.0)
    assert [text[:6] for text in doubts(at_bounds, fitted, [])] == ["L0 is ", "C is 0"]
    faster = replace(made("wsd"), lr=10 * rates("wsd"))
    (doubt,) = doubts(TRUTH, fitted, [faster])
    assert doubt == "wsd: its peak rate is 0.003, that of the fitted curves 0.0003; the law holds for one."
