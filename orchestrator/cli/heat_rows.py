"""Convergence over learning rates and momenta as a table and as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

import numpy as np

from orchestrator.cli.figures import figure
from orchestrator.cli.output import aligned, emit
from orchestrator.core.stability import largest_stable_rate
from orchestrator.simulate.delay.quadratic import Grid, HeatMap, Method, Quadratic, exact_share, nearest

IN_ORDER = "in order"
"""Stands for the delay where it is that of workers."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HeatMaps:
    """What converges at each delay."""

    problem: Quadratic
    method: Method
    grid: Grid
    by_delay: Mapping[int | None, HeatMap]
    """By the fixed delay; None stands for the order of workers."""


def emit_maps(maps: HeatMaps, momentum: float) -> None:
    """Print a line for each delay, with what is exactly known of plain momentum beside it."""
    problem, grid = maps.problem, maps.grid
    momentum = float(grid.momenta[nearest(grid.momenta, momentum)])
    emit(
        f"{problem.num_weights} curvatures from {figure(1 / problem.condition)} to 1; {len(grid.rates)} learning rates "
        f"from {figure(grid.rates[0])} to {figure(grid.rates[-1])}, {len(grid.momenta)} momenta from "
        f"{figure(grid.momenta[0])} to {figure(grid.momenta[-1])}. {_in_words(maps.method)}.\n"
    )
    header = ["DELAY", "CONVERGED", "HALF-LIFE", "AT RATE", "AT MOMENTUM", f"LARGEST RATE AT {figure(momentum)}"]
    header += ["PLAIN, EXACT: CONVERGED", "LARGEST RATE"]
    emit("\n".join(aligned([header, *(_cells(delay, found, momentum) for delay, found in maps.by_delay.items())])))


def maps_document(maps: HeatMaps) -> dict[str, Any]:
    """All of it as data; half-lives are null where a setting does not converge."""
    grid = maps.grid
    return {
        "problem": asdict(maps.problem),
        "method": asdict(maps.method),
        "rates": grid.rates.tolist(),
        "momenta": grid.momenta.tolist(),
        "maps": [_as_json(delay, found) for delay, found in maps.by_delay.items()],
    }


def _as_json(delay: int | None, found: HeatMap) -> dict[str, Any]:
    momenta = found.grid.momenta.tolist()
    exact = None
    if delay is not None:
        bounds = [largest_stable_rate(delay, momentum) for momentum in momenta]
        exact = {"converged_share": exact_share(found.grid, delay), "largest_rates": bounds}
    return {
        "delay": delay,
        "converged_share": found.share,
        "half_lives": [[value if isfinite(value) else None for value in row] for row in found.half_life.tolist()],
        "largest_rates": [found.largest_rate(momentum) for momentum in momenta],
        "plain_exact": exact,
    }


def _in_words(method: Method) -> str:
    words = [f"Braked with rho {figure(method.rho)}" if method.rho else "Plain momentum"]
    if method.rho and method.num_tensors > 1:
        words.append(f"in {method.num_tensors} parts")
    if method.compensation is not None:
        words.append(f"with {method.compensation}")
    return " ".join(words)


def _cells(delay: int | None, found: HeatMap, momentum: float) -> list[str]:
    grid, half_life, largest = found.grid, found.half_life, found.largest_rate(momentum)
    best = ["", "", ""]
    if found.converged.any():
        rate, at = np.unravel_index(half_life.argmin(), half_life.shape)
        best = [figure(half_life[rate, at]), figure(grid.rates[rate]), figure(grid.momenta[at])]
    exact = ["", ""]
    if delay is not None:
        exact = [f"{exact_share(grid, delay):.1%}", figure(largest_stable_rate(delay, momentum))]
    label = IN_ORDER if delay is None else str(delay)
    return [label, f"{found.share:.1%}", *best, "none" if largest is None else figure(largest), *exact]
