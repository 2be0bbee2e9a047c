"""Loss curves made from known numbers: the law in closed form, written without the code that is tested."""

import numpy as np
from numpy.typing import NDArray

from orchestrator.simulate.annealing_law import AnnealingLaw, Curve

NUM_STEPS, WARMUP_STEPS, PEAK, FLOOR = 3000, 200, 3e-4, 3e-5
TRUTH = AnnealingLaw(l0=2.5, a=0.6, alpha=0.45, c=0.5, momentum=0.999)


def rates(schedule: str, num_steps: int = NUM_STEPS) -> NDArray[np.float64]:
    """Rates of a schedule: linear warmup, then constant, cosine, linear or WSD (constant, then a linear last fifth)."""
    progress = np.clip((np.arange(num_steps) - WARMUP_STEPS) / (num_steps - WARMUP_STEPS), 0, 1)
    shape = {
        "constant": np.ones(num_steps),
        "cosine": (1 + np.cos(np.pi * progress)) / 2,
        "linear": 1 - progress,
        "wsd": np.clip((1 - progress) / 0.2, 0, 1),
    }[schedule]
    warmup = np.minimum(1, np.arange(1, num_steps + 1) / WARMUP_STEPS)
    return warmup * (FLOOR + (PEAK - FLOOR) * shape)


def closed_form_loss(law: AnnealingLaw, lr: NDArray[np.float64], warmup_steps: int) -> NDArray[np.float64]:
    """L of each step; S2 as every drop of the rate times the geometric sum of its later effects."""
    geometric_sums = (1 - law.momentum ** np.arange(1, len(lr) + 1)) / (1 - law.momentum)
    drops = np.concatenate([[0], lr[:-1] - lr[1:]])
    drops[:warmup_steps] = 0
    s2 = np.convolve(drops, geometric_sums)[: len(lr)]
    return law.l0 + law.a * np.cumsum(lr) ** -law.alpha - law.c * s2


def made(
    schedule: str, *, law: AnnealingLaw = TRUTH, noise: float = 0.0, every: int = 10, num_steps: int = NUM_STEPS
) -> Curve:
    """A curve that follows the law up to seeded noise, a share of the loss; one loss in ``every`` steps."""
    lr = rates(schedule, num_steps)
    steps = np.arange(every, num_steps + 1, every)
    seed = sum(map(ord, schedule))
    factors = np.exp(noise * np.random.default_rng(seed).standard_normal(len(steps)))
    loss = closed_form_loss(law, lr, WARMUP_STEPS)[steps - 1] * factors
    return Curve(schedule, lr, WARMUP_STEPS, steps, loss)
