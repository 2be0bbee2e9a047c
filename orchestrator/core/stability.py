"""How large a learning rate may be when every gradient is old: exact for momentum SGD on a quadratic. No torch."""

from __future__ import annotations

from functools import lru_cache
from math import atan2, cos, hypot, pi, sin


@lru_cache(maxsize=4096)
def largest_stable_rate(delay: int, momentum: float) -> float:
    """Learning rate x curvature up to which momentum SGD is stable with gradients of a fixed delay.

    ``v <- m v + g; w <- w - lr v`` with ``g`` computed at the weights of ``delay`` updates before. The weights shrink
    while all roots of ``z^(D-1) (z - 1) (z - m) + lr x curvature`` are inside the unit circle. Roots leave it first
    where the phases of the factors at ``z = exp(i t)`` add up,

        (D - 1/2) t + arg(exp(i t) - m) = pi / 2

    and lr x curvature is ``|z - 1| |z - m|`` there. The left side grows with t from 0, and so do both distances.

    Args:
        delay: D in updates; 0 is synchronous training, and the bound is 2 (1 + m).
        momentum: m, at least 0 and below 1; the bound without momentum is 2 sin(pi / (4 D + 2)).

    Raises:
        ValueError: where an argument is out of its range.
    """
    if delay < 0 or not 0 <= momentum < 1:
        raise ValueError(f"No bound for delay {delay} and momentum {momentum:g}: they must be >= 0 and in [0, 1).")
    if delay == 0:
        return 2 * (1 + momentum)
    below, above = 0.0, pi / (2 * delay - 1)
    while below < (middle := (below + above) / 2) < above:
        if (delay - 0.5) * middle + atan2(sin(middle), cos(middle) - momentum) < pi / 2:
            below = middle
        else:
            above = middle
    return 2 * sin(above / 2) * hypot(cos(above) - momentum, sin(above))
