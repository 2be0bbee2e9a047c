"""The cyclic code as a scheme of single rounds."""

from __future__ import annotations

from orchestrator.core.coding.checks import check_range, check_stragglers
from orchestrator.core.coding.cyclic_code import CyclicDecoder
from orchestrator.core.coding.scheme import Decoded, Workers, count
from orchestrator.core.coding.single_round import SingleRound, one_message_each


class Cyclic(SingleRound):
    """Exact with any ``stragglers`` workers missing and no more, for every number of workers.

    Messages and their sum are multiplied by coefficients that may be large: see ``CyclicCode.amplification``.

    Args:
        num_workers: Workers that share the batch, one chunk for each.
        stragglers: Workers that a round may close without.
        seed: Of the code.
        strict: Close a round only with fewer than ``stragglers`` missing, as the experiments of arXiv 2211.13802 do.
    """

    def __init__(self, num_workers: int, *, stragglers: int, seed: int = 0, strict: bool = False) -> None:
        check_stragglers(stragglers, num_workers)
        if strict:
            check_range("stragglers", stragglers, least=1)
        super().__init__(num_workers, num_chunks=num_workers, load=(stragglers + 1) / num_workers)
        self._num_needed = num_workers - stragglers + strict
        self.decoder = CyclicDecoder(num_workers, stragglers, seed)

    def _message(self, worker: int) -> tuple[tuple[int, ...], tuple[float, ...]]:
        return self.decoder.code.row(worker)

    def _suffices(self, arrived: Workers) -> bool:
        return count(arrived) >= self._num_needed

    def _combination(self, job: int, arrived: Workers) -> Decoded:
        vector = self.decoder.vector(arrived)
        return one_message_each(job, vector.workers, vector.coefficients, residual=vector.residual)
