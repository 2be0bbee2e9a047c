"""Training data of asynchronous training: the updates of a phase as they come, in place of samples."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.core.served import RoundRequest, Update, UpdateSource
from orchestrator.core.values import BatchPlan, DataPosition
from orchestrator.data.micro_batch import LoadedMicroBatch


class UpdateData:
    """Waits for the pushes of each step. Satisfies ``core.protocols.TrainData``.

    Args:
        source: of the updates.
        request: the whole phase, see ``UpdateSource.open``.
        position: what has been accepted of it.
    """

    def __init__(self, source: UpdateSource, request: RoundRequest, position: DataPosition) -> None:
        self._source = source
        self._total_samples = request.num_samples
        self._samples = position.samples
        source.open(request, position.ledger)

    @property
    def position(self) -> DataPosition:
        """What the steps so far have accepted."""
        return DataPosition(samples=self._samples, ledger=self._source.ledger())

    def step(self, plan: BatchPlan) -> tuple[int, Iterator[LoadedMicroBatch]]:
        """Samples of the next update, and the update as its one micro-batch; its size is that of the phase.

        Raises:
            ValueError: where all samples of the phase have been accepted.
        """
        if self._samples >= self._total_samples:
            raise ValueError(f"All {self._total_samples} samples of the training have been accepted.")
        update = self._source.next_update()
        return update.num_samples, self._serve(update)

    def _serve(self, update: Update) -> Iterator[LoadedMicroBatch]:
        yield LoadedMicroBatch(batch=update, weight=1.0, is_last=True)
        self._samples += update.num_samples

    def close(self) -> None:
        """Nothing works ahead here."""
