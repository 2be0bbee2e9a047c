"""How far momentum SGD bears old gradients on a quadratic: which rates and momenta converge, and how fast.

The loss is the sum of ``curvature w^2 / 2``. Trainings of a whole grid of rates and momenta run side by side from the
same weights; those are divided by their size every few updates, so neither growth nor decay ends in an overflow, and
what is added up on the way is the logarithm of the true size. A training has converged if it decays in the second half.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from math import inf, log

import numpy as np
from numpy.typing import NDArray

from orchestrator.core.coding.checks import check_range
from orchestrator.core.stability import largest_stable_rate
from orchestrator.core.staleness import Staleness
from orchestrator.simulate.delay.compensations import COMPENSATIONS, Compensation, Floats, Trainings
from orchestrator.simulate.stragglers.checks import check_number
from orchestrator.spec.push_order import OrderedPush

NUM_UPDATES = 2000
RESCALE_EVERY = 10
CONVERGED_BELOW = -1e-6
"""Growth of a training that counts as decay, per update."""
BRAKING_EPS = 1e-12
MAX_CONDITION = 1e12
HUGE = 1e30
"""Size from which on a training counts as diverged."""
SMALL, TINY = 1e-30, 1e-100
"""A size at which every method is as good as homogeneous, and the one from which such methods are brought back to it
that are not."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Grid:
    """The settings that are tried, every rate with every momentum."""

    rates: Floats = field(default_factory=lambda: np.logspace(-5, 0.5, 56))
    """Rising; times the largest curvature, which is 1."""
    momenta: Floats = field(default_factory=lambda: 1 - np.logspace(0, -3, 13))
    """In [0, 1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """How a step is taken.

    Raises:
        ValueError: where a number is out of its range.
    """

    rho: float = 0.0
    """Strength of adaptive braking: gradients are multiplied by 1 - rho cos(gradient, velocity)."""
    num_tensors: int = 1
    """Runs of the spectrum that have a cosine each; with 1 it is that of the whole model."""
    compensation: str | None = None
    """One of ``COMPENSATIONS``."""

    def __post_init__(self) -> None:
        check_number("rho", self.rho, least=0.0)
        check_range("tensors", self.num_tensors, least=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quadratic:
    """The loss, with curvatures that are evenly spaced on a logarithmic scale from 1 / condition to 1.

    Raises:
        ValueError: where a number is out of its range.
    """

    num_weights: int = 32
    condition: float = 1e3
    seed: int = 0
    """Of the weights to begin with, normally distributed."""

    def __post_init__(self) -> None:
        check_range("weights", self.num_weights, least=1)
        check_number("condition", self.condition, least=1.0, most=MAX_CONDITION)

    def curvatures(self) -> Floats:
        """``[num_weights]`` rising to 1."""
        return np.logspace(-np.log10(self.condition), 0, self.num_weights) if self.num_weights > 1 else np.ones(1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HeatMap:
    """What became of each setting of a grid."""

    grid: Grid
    growth: Floats
    """``[num_rates, num_momenta]`` mean growth of the logarithm of the size per update; infinite if it overflowed."""

    @property
    def converged(self) -> NDArray[np.bool_]:
        """Which settings converge."""
        return self.growth < CONVERGED_BELOW

    @property
    def share(self) -> float:
        """Share of the settings that converge."""
        return float(self.converged.mean())

    @property
    def half_life(self) -> Floats:
        """Updates in which the size halves; infinite where it does not."""
        return np.where(self.converged, log(2) / np.maximum(-self.growth, 1e-300), inf)

    def largest_rate(self, momentum: float) -> float | None:
        """The largest rate of the grid that converges at the momentum of the grid that is nearest to this one."""
        column = self.converged[:, nearest(self.grid.momenta, momentum)]
        return float(self.grid.rates[column].max()) if column.any() else None


def nearest(momenta: Floats, momentum: float) -> int:
    """Where the grid has the momentum that is nearest to one, by the ratio of 1 - momentum."""
    return int(np.abs(np.log((1 - momenta) / (1 - momentum))).argmin())


def exact_share(grid: Grid, delay: int) -> float:
    """Share of the settings with which plain momentum SGD is stable with a fixed delay, exactly."""
    bounds = [largest_stable_rate(delay, momentum) for momentum in grid.momenta.tolist()]
    return float((grid.rates[:, None] < np.array(bounds)).mean())


def heat_map(problem: Quadratic, grid: Grid, method: Method, order: Sequence[OrderedPush]) -> HeatMap:
    """Train with every setting of a grid.

    Args:
        problem: The loss.
        grid: Settings.
        method: How a step is taken.
        order: Pushes, whose gradients are averaged where several make an update.

    Raises:
        ValueError: where there are too few updates, several pushes to one with a compensation that takes one only, or
            more tensors than weights.
    """
    updates = [tuple(pushes) for _, pushes in groupby(order, key=lambda push: push.update)]
    check_range("updates", len(updates), least=2 * RESCALE_EVERY)
    check_range("tensors", method.num_tensors, least=1, most=problem.num_weights)
    if method.compensation not in (None, "staleness_aware") and len(updates) < len(order):
        raise ValueError(f"{method.compensation} takes one push to an update; staleness_aware takes several.")
    run = _Run(problem, grid, method, updates)
    # Half of the updates, up to a multiple of those between two measurements.
    num_before = len(updates) // (2 * RESCALE_EVERY) * RESCALE_EVERY
    num_after = (len(updates) - num_before) // RESCALE_EVERY * RESCALE_EVERY
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        before = run.advance(num_before)
        growth = (run.advance(num_after) - before) / num_after
    return HeatMap(grid=grid, growth=np.where(np.isnan(growth), before, growth))


class _Run:
    """All trainings of a grid, update by update."""

    def __init__(
        self, problem: Quadratic, grid: Grid, method: Method, updates: Sequence[tuple[OrderedPush, ...]]
    ) -> None:
        self._curvatures = problem.curvatures()
        self._method = method
        self._rule = COMPENSATIONS[method.compensation]() if method.compensation else Compensation()
        self._updates = updates
        self._last_use = {push.read_version: push.update for pushes in updates for push in pushes}
        workers = {push.worker for pushes in updates for push in pushes}
        self._slots = {worker: slot for slot, worker in enumerate(sorted(workers))}
        start = np.random.default_rng(problem.seed).standard_normal(problem.num_weights)
        shape = (len(grid.rates), len(grid.momenta), problem.num_weights)
        self._now = Trainings(
            rates=grid.rates[:, None, None],
            momenta=grid.momenta[None, :, None],
            weights=np.broadcast_to(start, shape).copy(),
            velocities=np.zeros((len(workers) if self._rule.has_velocity_per_worker else 1, *shape)),
            staleness=Staleness(is_asynchronous=True),
        )
        self._versions = {0: self._rule.published(self._now).copy()}
        self._tensor_of = np.arange(problem.num_weights) * method.num_tensors // problem.num_weights
        self._tensor_starts = np.searchsorted(self._tensor_of, np.arange(method.num_tensors))
        self._log_size = np.zeros(shape[:2])
        self._version = 0

    def advance(self, num_updates: int) -> Floats:
        """Take updates, a multiple of ``RESCALE_EVERY``; logarithm of the sizes then, infinite where diverged or 0."""
        for _ in range(num_updates // RESCALE_EVERY):
            for _ in range(RESCALE_EVERY):
                self._update(self._updates[self._version])
            self._rescale(self._size())
        return np.where(self._log_size == inf, inf, self._log_size + np.log(self._size()))

    def _update(self, pushes: Sequence[OrderedPush]) -> None:
        now = self._now
        gradient: Floats | None = None
        for push in pushes:
            now.staleness.observe(push.delay, push.worker)
            read = self._versions[push.read_version]
            of_push = self._rule.corrected(self._curvatures * read, read, now)
            gradient = of_push if gradient is None else gradient + of_push
        assert gradient is not None  # an update has pushes
        if len(pushes) > 1:
            gradient /= len(pushes)
        slot = self._slots[pushes[-1].worker] if self._rule.has_velocity_per_worker else 0
        velocity = now.velocities[slot]
        if self._method.rho:
            gradient *= self._braking(gradient, velocity)
        velocity *= now.momenta
        velocity += gradient
        now.weights -= now.rates * velocity
        self._rule.stepped(now, velocity)
        self._keep_version()

    def _keep_version(self) -> None:
        """Remember what workers read, as long as a push needs it."""
        for version in [version for version in self._versions if self._last_use.get(version, -1) <= self._version]:
            del self._versions[version]
        self._version += 1
        if self._version in self._last_use:
            self._versions[self._version] = self._rule.published(self._now).copy()

    def _braking(self, gradient: Floats, velocity: Floats) -> Floats:
        """The factors ``1 - rho cos(gradient, velocity)`` of adaptive braking, for each tensor of each training."""
        norms = self._sums(gradient * gradient) * self._sums(velocity * velocity)
        cosines = self._sums(gradient * velocity) / np.maximum(np.sqrt(norms), BRAKING_EPS)
        factors: Floats = 1 - self._method.rho * cosines[..., self._tensor_of]
        return factors

    def _sums(self, values: Floats) -> Floats:
        """``[num_rates, num_momenta, num_tensors]``."""
        sums: Floats = np.add.reduceat(values, self._tensor_starts, axis=-1)
        return sums

    def _size(self) -> Floats:
        """``[num_rates, num_momenta]``: of the weights and of the steps that the velocities take them.

        Of the weights it is the mean over the versions that are kept, as their number may change.
        """
        kept = [self._now.weights, *self._versions.values()]
        squares = sum((np.einsum("rmw,rmw->rm", version, version) for version in kept), np.zeros(1)) / len(kept)
        velocities = np.einsum("vrmw,vrmw->rm", self._now.velocities, self._now.velocities)
        size: Floats = np.sqrt(squares + self._now.rates[..., 0] ** 2 * velocities)
        return size

    def _rescale(self, size: Floats) -> None:
        """Bring the trainings back to one size; those that are 0 or have diverged stay so."""
        is_over = ~(size < HUGE)
        self._log_size[is_over] = inf
        is_due = (size > 0) & ~is_over
        if not self._rule.is_homogeneous:
            is_due &= size < TINY
        factors = np.where(is_due, (1.0 if self._rule.is_homogeneous else SMALL) / np.where(is_due, size, 1.0), 1.0)
        self._log_size -= np.log(factors)
        for array in self._states():
            array[is_over] = 0.0
            array *= factors[..., None]
        self._rule.rescale(factors[..., None])

    def _states(self) -> Iterator[Floats]:
        yield self._now.weights
        yield from self._now.velocities
        yield from self._versions.values()
