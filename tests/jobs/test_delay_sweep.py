"""The first lines of the delay sweep, shortened: what old gradients do to momentum, and what braking does about it."""

from benchmarks.delay_sweep import Run, train


def accuracy(method: str) -> float:
    return train(Run(method, delay=16, updates=300))[1]["accuracy"] or 0.1


def test_a_delay_of_16_ruins_momentum_sgd_and_braking_saves_it() -> None:
    assert accuracy("momentum SGD") < 0.6
    assert accuracy("braking, rho 2, tensor") >= 0.8
