"""Schemes as an independent program times them, which was checked against that of the authors of arXiv 2211.13802."""

import numpy as np
from numpy.typing import NDArray

from orchestrator.core.coding.m_sgc import MSgc
from orchestrator.core.coding.scheme import Workers
from orchestrator.core.coding.sr_sgc import SrSgc


class FullLoadMSgc(MSgc):
    """Workers are charged for all messages of a round, also in the first and last rounds, which have fewer."""

    def loads(self) -> NDArray[np.float64]:
        return np.full(self.num_workers, self.load)


class EverybodySrSgc(SrSgc):
    """Rounds after the last job wait for workers that have nothing to do as well."""

    def loads(self) -> NDArray[np.float64]:
        return np.full(self.num_workers, self.load if super().loads().any() else 0.0)


class StrictSrSgc(EverybodySrSgc):
    """And a round that is waited out ends only with stragglers that the model admits, though others are harmless."""

    def may_close(self, arrived: Workers) -> bool:
        return self._history.admits(self._is_busy & ~arrived)
