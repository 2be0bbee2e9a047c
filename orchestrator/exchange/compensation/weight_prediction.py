"""Weight prediction: gradients are computed at weights moved ahead by the expected delay."""

from __future__ import annotations

from orchestrator.exchange.compensation.stepped import LookAhead
from orchestrator.spec.methods.compensations import WeightPrediction


def reach(form: str, momentum: float, delay: float) -> float:
    """Steps of the present velocity in ``delay`` updates: all whole ones (linear), or each m times the one before."""
    if form == "linear":
        return delay
    return (momentum - float(momentum ** (delay + 1))) / (1 - momentum)


class Prediction(LookAhead):
    """Weights are sent out where the velocity alone will have taken them, s updates on, by ``torch.optim.SGD``.

    What is sent out::

        linear:    w - lr s v                                  (SpecTrain)
        momentum:  w - lr v (m - m^(s+1)) / (1 - m)            (MSNAG)

    Args:
        config: ``delay`` is s; None takes the running mean of the delays so far.
        num_workers: not needed.
    """

    def __init__(self, config: WeightPrediction, num_workers: int) -> None:
        self._form = config.form
        self._delay = config.delay

    def _reach(self, momentum: float) -> float:
        return reach(self._form, momentum, self._staleness.mean if self._delay is None else self._delay)
