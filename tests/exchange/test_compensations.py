"""Every compensation against its equations in NumPy, over 30 updates of workers of unequal speed."""

from typing import Any

import numpy as np
import pytest
from exchange.delay_cases import DECAY, MOMENTUM, ORDER, RATES, START, UPDATES, Vector, gradient, trained

from orchestrator.spec.push_order import OrderedPush

NUM_WORKERS = 3


def staleness_aware() -> Vector:
    w, v = [START], np.zeros(5)
    for push in ORDER:
        v = MOMENTUM * v + gradient(w[push.read_version], push.update) / max(1, push.delay) + DECAY * w[-1]
        w.append(w[-1] - RATES[push.update] * v)
    return np.stack(w)


def dc_asgd(strength: float, decay: float | None = None) -> Vector:
    w, v, mean_square = [START], np.zeros(5), np.zeros(5)
    for push in ORDER:
        read = w[push.read_version]
        g = gradient(read, push.update)
        by = strength
        if decay is not None:
            mean_square = decay * mean_square + (1 - decay) * g**2
            by = strength / np.sqrt(mean_square + 1e-7)
        g = g + by * g * g * (w[-1] - read)
        v = MOMENTUM * v + g + DECAY * w[-1]
        w.append(w[-1] - RATES[push.update] * v)
    return np.stack(w)


def gap_aware(decay: float) -> Vector:
    w, v, square = [START], np.zeros(5), np.zeros(5)
    for push in ORDER:
        now, read, t = w[-1], w[push.read_version], push.update
        total = gradient(read, t) + DECAY * now
        if push.delay > 0:
            usual = RATES[: t + 1].max() * (np.sqrt(square / (1 - decay**t)) + 1e-8)
            total = total / (1 + np.abs(now - read) / usual)
        v = MOMENTUM * v + total
        square = decay * square + (1 - decay) * v**2
        w.append(now - RATES[t] * v)
    return np.stack(w)


def dana_zero() -> Vector:
    w, sent, v = [START], [START], np.zeros((NUM_WORKERS, 5))
    for push in ORDER:
        v[push.worker] = MOMENTUM * v[push.worker] + gradient(sent[push.read_version], push.update) + DECAY * w[-1]
        w.append(w[-1] - RATES[push.update] * v[push.worker])
        sent.append(w[-1] - RATES[push.update] * MOMENTUM * v.sum(axis=0))
    return np.stack(w)


def prediction(form: str, delay: float | None) -> Vector:
    w, sent, v, delays = [START], [START], np.zeros(5), list[int]()
    for push in ORDER:
        delays.append(push.delay)
        v = MOMENTUM * v + gradient(sent[push.read_version], push.update) + DECAY * w[-1]
        w.append(w[-1] - RATES[push.update] * v)
        s = np.mean(delays) if delay is None else delay
        ahead = s if form == "linear" else sum(MOMENTUM**k for k in range(1, round(s) + 1))
        sent.append(w[-1] - RATES[push.update] * ahead * v)
    return np.stack(w)


CASES: list[tuple[dict[str, Any], Vector]] = [
    ({"name": "staleness_aware"}, staleness_aware()),
    ({"name": "dc_asgd"}, dc_asgd(0.04)),
    ({"name": "dc_asgd", "strength": 0.7}, dc_asgd(0.7)),
    ({"name": "dc_asgd", "variance": "adaptive"}, dc_asgd(2.0, 0.95)),
    ({"name": "dc_asgd", "variance": "adaptive", "strength": 0.5, "decay": 0.8}, dc_asgd(0.5, 0.8)),
    ({"name": "gap_aware"}, gap_aware(0.999)),
    ({"name": "gap_aware", "decay": 0.9}, gap_aware(0.9)),
    ({"name": "dana_zero"}, dana_zero()),
    ({"name": "weight_prediction", "delay": 2}, prediction("momentum", 2)),
    ({"name": "weight_prediction", "form": "linear", "delay": 2.5}, prediction("linear", 2.5)),
    ({"name": "weight_prediction", "form": "linear"}, prediction("linear", None)),
]


@pytest.mark.parametrize(("config", "expected"), CASES, ids=lambda case: str(case) if isinstance(case, dict) else "")
def test_it_is_its_equations(config: dict[str, Any], expected: Vector) -> None:
    np.testing.assert_allclose(trained(config), expected, rtol=1e-10, atol=1e-12)


def test_they_differ_from_each_other_and_from_nothing() -> None:
    results = [trained(None)[-1], *(expected[-1] for _, expected in CASES)]
    for index, first in enumerate(results):
        for second in results[:index]:
            assert np.abs(first - second).max() > 1e-6


@pytest.mark.parametrize("name", ["staleness_aware", "dc_asgd", "gap_aware"])
def test_without_a_delay_nothing_is_compensated(name: str) -> None:
    order = [OrderedPush(t, 0, chunk=t, read_version=t) for t in range(UPDATES)]
    np.testing.assert_array_equal(trained({"name": name}, order=order), trained(None, order=order))
