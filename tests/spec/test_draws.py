"""Random sweeps: the same trials from the same seed everywhere, within their limits, none twice."""

import math
from pathlib import Path
from typing import Any

import pytest
from spec.bad_spec import GOOD
from spec.loading import load

from orchestrator.spec.draws import draw_lists
from orchestrator.spec.job import JobSpec
from orchestrator.spec.load import dump_resolved, load_recipe_job
from orchestrator.spec.sweep import assignments_of, has_separate_trials, trials_of

LR = {"log_uniform": [0.001, 1.0]}


def drawn(trials: int = 200, seed: int = 0, **distributions: Any) -> dict[str, list[Any]]:
    return draw_lists({"trials": trials, "seed": seed, **distributions})


def test_these_numbers_are_drawn_for_ever() -> None:
    """A sweep that goes on draws again what its trials set: on any machine, by any version."""
    first = draw_lists({"trials": 3, "optimizer.lr": LR, "batch.global_size": [64, 128, 256]})
    assert first == {"optimizer.lr": [0.00276237, 0.00754666, 0.0447407], "batch.global_size": [256, 128, 128]}


def test_the_seed_decides() -> None:
    assert drawn(seed=1, a=LR) == drawn(seed=1, a=LR) != drawn(seed=2, a=LR)
    assert draw_lists({"trials": 3, "a": LR}) == drawn(3, 0, a=LR)


def test_more_trials_and_other_paths_leave_those_that_were_there() -> None:
    few, many = drawn(5, a=LR), drawn(9, a=LR, b={"uniform": [0.0, 1.0]})
    assert many["a"][:5] == few["a"]
    assert len(set(many["a"])) == 9


@pytest.mark.parametrize(
    ("distribution", "middle"),
    [({"uniform": [-1.0, 3.0]}, 1.0), (LR, math.sqrt(0.001)), ({"int_uniform": [10, 1009]}, 509.5)],
)
def test_values_lie_within_their_limits_and_evenly(distribution: dict[str, list[float]], middle: float) -> None:
    ((low, high),) = distribution.values()
    values = drawn(500, x=distribution)["x"]
    assert all(low <= value <= high for value in values)
    assert len(set(values)) == 500
    assert 200 < sum(value < middle for value in values) < 300
    assert min(values) < low + 0.1 * (high - low)


def test_integers_reach_both_limits() -> None:
    assert sorted(drawn(3, x={"int_uniform": [4, 6]})["x"]) == [4, 5, 6]


def test_every_item_of_a_list_is_drawn_and_kept_as_it_is() -> None:
    items = ["sgd", {"name": "lamb", "lr": 0.1}, None]
    values = drawn(3, x=items)["x"]
    assert [item for item in items if item in values] == items


def test_drawn_numbers_can_be_read_and_typed() -> None:
    assert all(len(f"{value!r}".replace("e-0", "").strip("0.")) <= 8 for value in drawn(x=LR)["x"])
    assert drawn(1, x={"uniform": [1 / 3, 1 / 3 + 1e-12]})["x"][0] >= 1 / 3, "rounding leaves the limits"


def test_no_trial_is_drawn_twice() -> None:
    pairs = drawn(6, x=[0, 1], y=[0, 1, 2])
    assert len(set(zip(pairs["x"], pairs["y"], strict=True))) == 6
    assert [len(values) for values in drawn(9, x=[0, 1]).values()] == [2], "there are no more"


def test_a_random_sweep_survives_the_way_to_yaml_and_back(folder: Path) -> None:
    random = "{random: {trials: 4, seed: 7, optimizer.lr: {log_uniform: [0.001, 1]}, engine: [ddp, fsdp2]}}"
    spec = load(folder, f"name: tiny\n{GOOD}sweep: {random}\n").spec
    assert isinstance(spec, JobSpec)
    assert has_separate_trials(spec)
    (folder / "resolved.yaml").write_text(dump_resolved(spec), encoding="utf-8")
    again = load_recipe_job(folder / "resolved.yaml")
    assert trials_of(again) == trials_of(spec)
    rates = [trial.optimizer.lr for trial in trials_of(spec)]
    assert rates == [assignment["optimizer.lr"] for assignment in assignments_of(spec)]
    assert len(set(rates)) == 4
    assert rates == drawn(4, 7, **{"optimizer.lr": {"log_uniform": [0.001, 1]}})["optimizer.lr"]
