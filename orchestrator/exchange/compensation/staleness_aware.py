"""The staleness-aware rate: a gradient counts the less, the older it is."""

from __future__ import annotations

from orchestrator.exchange.compensation.stepped import CompensationBase
from orchestrator.spec.methods.compensations import StalenessAware


class StalenessAwareRate(CompensationBase):
    """Divides each gradient by its delay (Zhang et al. 2016, arXiv 1511.05950).

    The gradient of an update::

        g <- sum of g_i / max(1, tau_i) over the pushes of an update

    Difference from the paper: the gradient is divided, not the rate, which also lets it count less in the momentum.
    """

    def __init__(self, config: StalenessAware, num_workers: int) -> None:
        pass

    def factor(self, delay: int) -> float:
        """1 / max(1, delay)."""
        return 1.0 / max(1, delay)
