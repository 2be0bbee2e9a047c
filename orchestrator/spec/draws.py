"""Values that a random sweep draws: which distributions there are, and the same values from the same seed each time."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping
from typing import Any

OPTIONS = ("trials", "seed")
"""What stands beside the paths of a random sweep."""
DISTRIBUTIONS = {
    "uniform": "two numbers, the lower one first",
    "log_uniform": "two numbers above 0, the lower one first",
    "int_uniform": "two integers, the lower one first; both may be drawn",
}
"""Name -> what it takes. A list, each of whose items is as likely as the others, is one too."""
_DRAWS_PER_TRIAL = 100
_DIGITS = 6
"""Significant digits of drawn numbers, so that people can read and repeat them."""


def draw_lists(sweep: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The values of each path, one for each trial; no trial twice, so there may be fewer than were asked for.

    Each draw depends on the seed, its number and its path only: more trials begin with the same ones, and another path
    changes nothing in those that were there.

    Args:
        sweep: ``trials``, ``seed`` and a distribution for each path, all of them legal.
    """
    distributions = {path: value for path, value in sweep.items() if path not in OPTIONS}
    drawn: dict[str, dict[str, Any]] = {}
    for number in range(sweep["trials"] * _DRAWS_PER_TRIAL):
        keys = {path: f"{sweep.get('seed', 0)}/{number}/{path}" for path in distributions}
        values = {path: _draw(distributions[path], random.Random(key).random()) for path, key in keys.items()}
        drawn.setdefault(json.dumps(values, sort_keys=True), values)
        if len(drawn) == sweep["trials"]:
            break
    return {path: [values[path] for values in drawn.values()] for path in distributions}


def _draw(distribution: Any, share: float) -> Any:
    """The value at a share, in [0, 1), of a distribution."""
    if isinstance(distribution, list):
        return distribution[int(share * len(distribution))]
    ((name, (low, high)),) = distribution.items()
    if name == "int_uniform":
        return low + int(share * (high - low + 1))
    if name == "log_uniform":
        value = math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
    else:
        value = low + share * (high - low)
    return min(max(float(f"{value:.{_DIGITS}g}"), float(low)), float(high))


def fault_of(distribution: Any) -> tuple[str, str]:
    """What is wrong with a distribution, and what is legal; both empty where it is fine."""
    kinds = f"a list to choose from, or one of {', '.join(DISTRIBUTIONS)}, such as {{log_uniform: [0.001, 0.1]}}"
    if isinstance(distribution, list):
        return ("", "") if distribution else ("an empty list", kinds)
    if not isinstance(distribution, dict) or len(distribution) != 1 or next(iter(distribution)) not in DISTRIBUTIONS:
        return "not a distribution", kinds
    ((name, limits),) = distribution.items()
    types = int if name == "int_uniform" else int | float
    legal = f"{name}: {DISTRIBUTIONS[name]}"
    if not isinstance(limits, list) or len(limits) != 2 or not all(_is_number(limit, types) for limit in limits):
        return "has no such limits", legal
    low, high = limits
    return ("has no such limits", legal) if low >= high or (name == "log_uniform" and low <= 0) else ("", "")


def _is_number(value: Any, types: Any) -> bool:
    return isinstance(value, types) and not isinstance(value, bool)
