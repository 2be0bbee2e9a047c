"""How far does momentum SGD bear old gradients, with and without adaptive braking?

The convergence table of a quadratic at fixed delays: share of a grid of 56 learning rates and 13 momenta that
converges, best half-life, largest stable rate at momentum 0.9. Beside ours stand the figures of an independent program
that followed the same protocol with other weights to begin with, and what is exactly known of plain momentum.

    python benchmarks/delay_stability.py
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import statistics
import time
from collections.abc import Mapping
from datetime import date
from pathlib import Path

import numpy as np

from orchestrator.core.stability import largest_stable_rate
from orchestrator.simulate.delay.compensations import COMPENSATIONS
from orchestrator.simulate.delay.events import PushRules, fixed_delay, simulate
from orchestrator.simulate.delay.quadratic import NUM_UPDATES, Grid, HeatMap, Method, Quadratic, exact_share, heat_map
from orchestrator.simulate.delay.times import GammaTimes

ROOT = Path(__file__).parents[1]
MOMENTUM = 0.9
KNOWN: Mapping[int, Mapping[float, tuple[float, int, float]]] = {
    0: {0.0: (0.996, 13, 3.16), 0.5: (0.971, 13, 2.51), 1.0: (0.659, 23, 2.0), 2.0: (0.898, 39, 1.26)},
    1: {0.0: (0.648, 423, 0.10), 0.5: (0.695, 256, 0.126), 1.0: (0.423, 238, 0.159), 2.0: (0.713, 367, 0.20)},
    4: {0.0: (0.548, 815, 0.025), 0.5: (0.588, 594, 0.040), 1.0: (0.367, 373, 0.126), 2.0: (0.670, 588, 0.20)},
    16: {0.0: (0.448, 1307, 0.0079), 0.5: (0.484, 1203, 0.0126), 1.0: (0.343, 796, 0.126), 2.0: (0.630, 1002, 0.10)},
    64: {0.0: (0.354, 2240, 0.0020), 0.5: (0.394, 2405, 0.0050), 1.0: (0.339, 832, 0.159), 2.0: (0.573, 3062, 0.025)},
}
"""Of the independent program: by delay and rho the share, the best half-life and the largest rate."""


def braking_row(delay: int, rho: float, seeds: range) -> str:
    """One line of the table of braking: ours over several draws of the weights to begin with."""
    order, grid = fixed_delay(NUM_UPDATES, delay), Grid()
    maps = [heat_map(Quadratic(seed=seed), grid, Method(rho=rho), order) for seed in seeds]
    shares = [found.share for found in maps]
    half_lives = [float(found.half_life.min()) for found in maps]
    share, half_life, rate = KNOWN[delay][rho]
    print(f"delay {delay}, rho {rho:g}: {statistics.median(shares):.3f}", flush=True)
    return (
        f"| {delay} | {rho:g} | {share:.3f} | {statistics.median(shares):.3f} ({min(shares):.3f} - {max(shares):.3f}) "
        f"| {half_life:,} | {statistics.median(half_lives):,.0f} ({min(half_lives):,.0f} - {max(half_lives):,.0f}) "
        f"| {rate:g} | {rates_in_words(maps)} |"
    )


def rates_in_words(maps: list[HeatMap]) -> str:
    """The largest rates that converge at ``MOMENTUM``."""
    rates = sorted({found.largest_rate(MOMENTUM) or 0.0 for found in maps})
    return " - ".join(f"{rate:.3g}" for rate in {rates[0]: None, rates[-1]: None})


def exact_row(delay: int) -> str:
    """Plain momentum: what follows from the characteristic polynomial."""
    return (
        f"| {delay} | {exact_share(Grid(), delay):.3f} | {exact_half_life(delay):,.0f} "
        f"| {largest_stable_rate(delay, MOMENTUM):.4g} |"
    )


def exact_half_life(delay: int) -> float:
    """The best one of plain momentum over the grid, after as many updates as it takes.

    The largest root shrinks with rate x curvature and then grows, so the slowest weight has the largest curvature or
    the least.
    """
    grid, curvatures = Grid(), Quadratic().curvatures()
    growth = [
        max(log_of_root(delay, momentum, rate * curvature) for curvature in (curvatures[0], curvatures[-1]))
        for rate in grid.rates.tolist()
        for momentum in grid.momenta.tolist()
    ]
    return math.log(2) / -min(growth)


def log_of_root(delay: int, momentum: float, product: float) -> float:
    """Of the largest root of z^(D+1) - (1 + m) z^D + m z^(D-1) + rate x curvature, times z to be one for D = 0 too."""
    polynomial = np.zeros(delay + 3)
    polynomial[:3] = 1, -1 - momentum, momentum
    polynomial[delay + 1] += product
    return math.log(max(np.abs(np.roots(polynomial)).max(), 1e-300))


def method_rows(num_workers: int, slow: Mapping[int, float], seeds: range) -> list[str]:
    """All methods in the order of asynchronous workers."""
    times = GammaTimes(num_workers=num_workers, cv=0.3, slow=slow, seed=0)
    order = simulate(times, PushRules(num_updates=NUM_UPDATES)).order
    delays = [push.delay for push in order]
    label = f"{num_workers}{', one 4x slower' if slow else ''}: {np.mean(delays):.1f}, {max(delays)}"
    methods = {"plain momentum": Method(), "braking, rho 2": Method(rho=2.0)}
    methods |= {name: Method(compensation=name) for name in COMPENSATIONS}
    rows = []
    for name, method in methods.items():
        maps = [heat_map(Quadratic(seed=seed), Grid(), method, order) for seed in seeds]
        half_lives = [float(found.half_life.min()) for found in maps]
        shares = [found.share for found in maps]
        rows.append(
            f"| {label} | {name} | {statistics.median(shares):.3f} | {statistics.median(half_lives):,.0f} "
            f"| {rates_in_words(maps)} |"
        )
        print(f"{label}, {name}: {statistics.median(shares):.3f}", flush=True)
    return rows


def report(num_seeds: int, command: str) -> str:
    """The result page."""
    seeds = range(num_seeds)
    started = time.perf_counter()
    table = [braking_row(delay, rho, seeds) for delay, row in KNOWN.items() for rho in row]
    table_s = time.perf_counter() - started
    methods = [
        row for workers, slow in ((8, {}), (16, {}), (16, {0: 4.0})) for row in method_rows(workers, slow, seeds)
    ]
    return "\n".join(
        [
            "# Old gradients on a quadratic",
            "",
            f"`{command}`, {date.today()}, {platform.machine()}, {os.cpu_count()} cores, Python "
            f"{platform.python_version()}, NumPy {np.__version__}.",
            "32 curvatures from 0.001 to 1, every combination of 56 learning rates (1e-5 to 3.16) and 13 momenta (0 to",
            f"0.999), {NUM_UPDATES:,} updates. A setting converges if its size shrinks by more than 1e-6 per update in "
            "the",
            f"second half. Ours: median, minimum and maximum over {num_seeds} draws of the weights to begin with. "
            "Largest",
            f"rates are at momentum {MOMENTUM:g}, on the grid, whose rates are 1.26 times apart.",
            "",
            f"## Adaptive braking at a fixed delay ({table_s:.0f} s on one thread, {len(table) * num_seeds} grids)",
            "",
            "Left of each pair: the independent program.",
            "",
            "| delay | rho | share | ours | best half-life | ours | largest rate | ours |",
            "|---|---|---|---|---|---|---|---|",
            *table,
            "",
            "## Plain momentum, exactly",
            "",
            "Half-lives of more than some hundred updates are those of the second thousand in the other tables, where",
            "slow weights have hardly moved yet; the last column is the bound of rate x curvature.",
            "",
            "| delay | share | best half-life | largest rate |",
            "|---|---|---|---|",
            *map(exact_row, KNOWN),
            "",
            "## All methods in the order of asynchronous workers (gamma times, cv 0.3)",
            "",
            "| workers: mean and largest delay | method | share | best half-life | largest rate |",
            "|---|---|---|---|---|",
            *methods,
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=None, help="default: a dated file beside this script")
    options = parser.parse_args()
    text = report(options.seeds, f"python benchmarks/delay_stability.py --seeds {options.seeds}")
    default = ROOT / "benchmarks" / f"delay_stability_{os.cpu_count()}-core-cpu_{date.today()}.md"
    (options.output or default).write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
