"""How noisy a gradient is, from the squared norms of its groups' gradients. Plain numbers; no torch.

A step's samples are divided into K groups (micro-batches, or workers) of n_k samples, B in all. The mean gradient of
group k is g_k, that of the step gbar = sum n_k g_k / B. Of the true gradient G and the covariance Sigma of one sample's
gradient these are estimates without bias, whatever the sizes of the groups:

    S  = (sum n_k |g_k|^2 - B |gbar|^2) / (K - 1)      of tr(Sigma)
    G2 = |gbar|^2 - S / B                              of |G|^2

Their ratio is the simple noise scale, a number of samples (McCandlish et al., arXiv:1812.06162, appendix A). It is the
ratio of two averages over steps: the average of the steps' ratios means nothing, as G2 is often close to zero.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleNorms:
    """What one measured step says of the groups' gradients of one module's parameters."""

    sum_weighted_sq: float
    """Sum of n_k |g_k|^2 over groups."""
    norm_sq: float
    """|gbar|^2, before clipping."""
    halves_sq: tuple[float, float] | None = None
    """|h_A|^2, |h_B|^2 of the parts that two halves of the groups have in gbar = h_A + h_B: the first half of the
    workers, or of the only worker's micro-batches, and the rest. None where the engine was not asked for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupNorms:
    """What one measured step says of the groups' gradients; equal on all ranks."""

    sum_weighted_sq: float
    """Sum of n_k |g_k|^2 over groups."""
    norm_sq: float
    """|gbar|^2, before clipping."""
    num_groups: int
    """K: groups with at least one sample. Two are needed for an estimate."""
    num_samples: int
    """B: samples of the step over all ranks."""
    group_sizes: tuple[int, ...] | None = None
    """n_k in the order of ``inner_products``; None where those are."""
    inner_products: tuple[float, ...] | None = None
    """<g_k, gbar> of each group over all of the model's tensors; None where the engine was not asked for them."""
    for_controller: bool = True
    """Whether the batch controller has asked for them."""
    modules: tuple[ModuleNorms, ...] | None = None
    """Of every module, in the order of ``EngineParts.module_of``; None where the engine was not asked for them."""


def noise_and_signal(norms: GroupNorms) -> tuple[float, float]:
    """Estimates without bias of tr(Sigma) and |G|^2; the second may be negative.

    Raises:
        ValueError: where there are fewer than two groups.
    """
    if norms.num_groups < 2:
        raise ValueError(f"Invalid num_groups value: {norms.num_groups}. Must be at least 2.")
    spread = norms.sum_weighted_sq - norms.num_samples * norms.norm_sq
    # A sum of squares that rounding may have made negative.
    noise = max(spread, 0.0) / (norms.num_groups - 1)
    return noise, norms.norm_sq - noise / norms.num_samples


def inner_product_variance(norms: GroupNorms) -> float:
    """Estimate without bias of the variance of <g, gbar> over single samples' gradients g, where gbar is given.

    Raises:
        ValueError: where the inner products were not measured, or there are fewer than two groups.
    """
    if norms.inner_products is None or norms.group_sizes is None:
        raise ValueError("Invalid inner_products value: None. Must be measured.")
    if norms.num_groups < 2:
        raise ValueError(f"Invalid num_groups value: {norms.num_groups}. Must be at least 2.")
    pairs = zip(norms.group_sizes, norms.inner_products, strict=True)
    return math.fsum(n * (product - norms.norm_sq) ** 2 for n, product in pairs) / (norms.num_groups - 1)


class RunningStatistic:
    """Averages of the estimates over the measured steps, in which a step's weight halves with the samples seen since.

    Standard errors take the measured steps for independent; their gradients nearly are.

    Args:
        half_life_samples: after so many samples a measured step counts half; above 0.

    Raises:
        ValueError: where it is not above 0.
    """

    def __init__(self, half_life_samples: float) -> None:
        if not half_life_samples > 0:
            raise ValueError(f"Invalid half_life_samples value: {half_life_samples}. Must be above 0.")
        self._half_life = half_life_samples
        self._num_observations = 0
        self._samples = 0
        # Sums over measured steps of w, w S, w G2, and of w^2, w^2 S, w^2 G2, w^2 S^2, w^2 S G2, w^2 G2^2.
        self._sums = [0.0] * 3
        self._squares = [0.0] * 6

    def update(self, norms: GroupNorms, samples: int) -> None:
        """Take in a measured step.

        Args:
            norms: of the step; with fewer than two groups they say nothing and are left out.
            samples: that the training had seen when the step was told of, over all ranks; never falling.
        """
        if norms.num_groups < 2:
            return
        noise, signal = noise_and_signal(norms)
        decay = 0.5 ** ((samples - self._samples) / self._half_life) if self._num_observations else 0.0
        terms = (1.0, noise, signal)
        products = (1.0, noise, signal, noise * noise, noise * signal, signal * signal)
        self._sums = [old * decay + term for old, term in zip(self._sums, terms, strict=True)]
        self._squares = [old * decay**2 + term for old, term in zip(self._squares, products, strict=True)]
        self._samples = samples
        self._num_observations += 1

    @property
    def num_observations(self) -> int:
        """Measured steps taken in."""
        return self._num_observations

    @property
    def noise(self) -> float:
        """Average estimate of tr(Sigma); nan before the first step."""
        return self._mean(1)

    @property
    def signal(self) -> float:
        """Average estimate of |G|^2, not clamped: it may be negative; nan before the first step."""
        return self._mean(2)

    @property
    def noise_scale(self) -> float:
        """Ratio of the averages, in samples; inf where the signal is not above 0, nan before the first step."""
        noise, signal = self.noise, self.signal
        return math.inf if signal <= 0 else noise / signal

    @property
    def noise_error(self) -> float:
        """Standard error of ``noise``; inf with fewer than two measured steps."""
        return self._error(1.0, 0.0, self.noise)

    @property
    def signal_error(self) -> float:
        """Standard error of ``signal``; inf with fewer than two measured steps."""
        return self._error(0.0, 1.0, self.signal)

    @property
    def noise_scale_error(self) -> float:
        """Standard error of ``noise_scale`` to first order; inf where that is, or with fewer than two steps."""
        if self._num_observations < 2 or self.signal <= 0:
            return math.inf
        return self._error(1.0, -self.noise_scale, 0.0) / self.signal

    def _mean(self, index: int) -> float:
        return self._sums[index] / self._sums[0] if self._num_observations else math.nan

    def _error(self, of_noise: float, of_signal: float, mean: float) -> float:
        """Standard error of the weighted mean of ``of_noise * S + of_signal * G2``, whose mean is ``mean``."""
        if self._num_observations < 2:
            return math.inf
        weights, noise, signal, noise_2, both, signal_2 = self._squares
        first = of_noise * noise + of_signal * signal
        second = of_noise**2 * noise_2 + 2 * of_noise * of_signal * both + of_signal**2 * signal_2
        spread = max(second - 2 * mean * first + mean**2 * weights, 0.0)
        total = self._sums[0] ** 2
        # The mean is of the same steps: as with n equal weights, where n / (n - 1) mends it.
        return math.sqrt(spread / (total - weights)) if total > weights else math.inf

    def state_dict(self) -> dict[str, Any]:
        """JSON values; the half-life is the spec's and not among them."""
        return {
            "num_observations": self._num_observations,
            "samples": self._samples,
            "sums": list(self._sums),
            "squares": list(self._squares),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore ``state_dict``."""
        self._num_observations = int(state["num_observations"])
        self._samples = int(state["samples"])
        self._sums = [float(value) for value in state["sums"]]
        self._squares = [float(value) for value in state["squares"]]


def of_module(norms: GroupNorms, module: int) -> GroupNorms:
    """What a measured step says of one module alone.

    Raises:
        ValueError: where modules were not measured.
    """
    if norms.modules is None:
        raise ValueError("Invalid norms: modules were not measured.")
    own = norms.modules[module]
    return replace(norms, sum_weighted_sq=own.sum_weighted_sq, norm_sq=own.norm_sq)


def noise_share(norms: GroupNorms, module: int) -> float:
    """1 - cos of the gradients of two halves of the batch, for one module, as all balanced halvings have it on average.

    With S / W the variance of the step's gradient, which its groups tell without bias, this is the ratio of the means
    over all halvings of W equal groups::

        (2 S / W) / (|gbar|^2 + S / W)

    Raises:
        ValueError: where there are fewer than two groups, or modules were not measured.
    """
    alone = of_module(norms, module)
    noise, _ = noise_and_signal(alone)
    variance = noise / norms.num_samples
    whole = alone.norm_sq + variance
    return 2 * variance / whole if whole > 0 else 0.0


def split_share(norms: GroupNorms, module: int) -> float:
    """1 - cos of the gradients of the step's two halves, for one module; 0 where either is zero.

    Raises:
        ValueError: where halves were not measured.
    """
    own = None if norms.modules is None else norms.modules[module]
    if own is None or own.halves_sq is None:
        raise ValueError("Invalid norms: halves were not measured.")
    one, other = own.halves_sq
    lengths = math.sqrt(one * other)
    return 1 - (own.norm_sq - one - other) / (2 * lengths) if lengths > 0 else 0.0
