"""One training of the quadratic in plain floating-point numbers, written from the papers' equations."""

from collections.abc import Sequence
from math import inf, log, sqrt

import numpy as np

from orchestrator.spec.push_order import OrderedPush


def growth(
    curvatures: Sequence[float],
    start: Sequence[float],
    order: Sequence[OrderedPush],
    *,
    rate: float,
    momentum: float,
    name: str,
    rho: float = 0.0,
    tensors: Sequence[range] = (),
) -> float:
    """Mean growth of the logarithm of the size over the second half, without ever rescaling; up to sizes of 1e100."""
    size = range(len(start))
    weights, num_updates = list(start), order[-1].update + 1
    velocities = {push.worker if name == "dana_zero" else 0: [0.0] * len(start) for push in order}
    squares, mean_delay = [0.0] * len(start), 0.0
    versions, sizes = [list(weights)], []
    for update in range(num_updates):
        pushes = [push for push in order if push.update == update]
        gradient = [0.0] * len(start)
        for number, push in enumerate(pushes):
            seen = update * len(pushes) + number + 1
            mean_delay += max(0.01, 1 / seen) * (push.delay - mean_delay)
            read = versions[push.read_version]
            for i in size:
                g, moved = curvatures[i] * read[i], weights[i] - read[i]
                if name == "staleness_aware":
                    g /= max(1, push.delay)
                if name == "dc_asgd":
                    g += 0.04 * g * g * moved
                if name == "gap_aware" and update:
                    g /= 1 + abs(moved) / (rate * sqrt(squares[i] / (1 - 0.999**update)))
                gradient[i] += g / len(pushes)
        velocity = velocities[pushes[-1].worker if name == "dana_zero" else 0]
        for tensor in tensors if rho else ():
            g, v = np.array(gradient)[list(tensor)], np.array(velocity)[list(tensor)]
            cosine = g @ v / max(np.linalg.norm(g) * np.linalg.norm(v), 1e-12)
            for i in tensor:
                gradient[i] *= 1 - rho * cosine
        for i in size:
            velocity[i] = momentum * velocity[i] + gradient[i]
            weights[i] -= rate * velocity[i]
            squares[i] = 0.999 * squares[i] + 0.001 * velocity[i] ** 2
        published = list(weights)
        if name == "dana_zero":
            published = [weights[i] - rate * momentum * sum(v[i] for v in velocities.values()) for i in size]
        if name == "weight_prediction":
            fade = momentum * (1 - momentum**mean_delay) / (1 - momentum)
            published = [weights[i] - rate * velocity[i] * fade for i in size]
        versions.append(published)
        needed = {push.read_version for push in order if push.update > update and push.read_version <= update + 1}
        kept = [weights, *(versions[version] for version in needed)]
        total = sum(np.square(version).sum() for version in kept) / len(kept)
        sizes.append(sqrt(total + sum(np.square(v).sum() for v in velocities.values()) * rate**2))
        if sizes[-1] > 1e100:
            return inf
    half = num_updates // 20 * 10
    return (log(sizes[-1]) - log(sizes[half - 1])) / (num_updates - half)
