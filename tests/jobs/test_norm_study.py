"""The study of normalization in its cheapest runs: what a large batch loses, and what brings it back."""

import numpy as np

from benchmarks.ghost_norm import EPOCHS, LARGE, LARGE_ARMS, MICRO_ARMS, SMALL, Run, train
from benchmarks.norm_recipe import NUM_TRAIN, with_noise
from orchestrator.spec.phases import phases_of


def test_arms_differ_by_what_they_are_called() -> None:
    specs = {arm: Run(arm, seed=3, noise=0.2).spec for arm in LARGE_ARMS}
    updates = {
        arm: sum(phase.train.epochs * NUM_TRAIN // phase.batch.global_size for phase in phases_of(spec))
        for arm, spec in specs.items()
    }
    few, many = sum(EPOCHS) * NUM_TRAIN // LARGE, sum(EPOCHS) * NUM_TRAIN // SMALL
    assert list(updates.values()) == [many, few, few, few, many]
    assert all(spec.train.seed == spec.recipe.args["noise_seed"] == 3 for spec in specs.values())
    rates = [phase.optimizer.lr for phase in phases_of(specs["small batch, 32"])]
    assert rates == [0.1, 0.01, 0.001]
    assert [Run(arm, 0).spec.batch.micro_size for arm in MICRO_ARMS] == [32, 2, 2, 2, 2]


def test_ghosts_and_rate_bring_back_what_a_large_batch_loses() -> None:
    found = {arm: train(Run(arm, seed=0))[1] for arm in ("large batch, 1,024", "+ ghosts of 32")}
    plain, ghosts = (result["accuracy"] for result in found.values())
    assert [result["steps"] for result in found.values()] == [20, 20]
    assert plain < 0.95 < ghosts


def test_wrong_labels_are_wrong_and_as_many_as_asked() -> None:
    labels = np.arange(1000) % 10
    noisy = with_noise(labels, 0.2, seed=1)
    assert (noisy != labels).sum() == 200
    assert set(noisy) == set(range(10))
    assert (with_noise(labels, 0.2, seed=1) == noisy).all()
    assert (with_noise(labels, 0.2, seed=2) != noisy).any()
    assert (with_noise(labels, 0.0, seed=1) == labels).all()
