"""From sample ids to a batch: the part of loading that loader processes run too. Owns no order and no device."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.utils.data import default_collate

from orchestrator.core.errors import OrchestratorError, RecipeError
from orchestrator.core.user_code import user_code
from orchestrator.data.columns import ColumnarReader, is_columnar
from orchestrator.data.randomness import isolated_randomness, keyed_sequence
from orchestrator.data.sampler import SampleIds

Collate = Callable[[list[Any]], Any]


@dataclass(frozen=True, slots=True)
class FetchRequest:
    """The samples of one micro-batch and where they stand."""

    ids: SampleIds
    position: int
    """Samples before the first one, since the start of the training; seeds the data code's random numbers."""


@dataclass(frozen=True, slots=True)
class FetchFailure:
    """An error on its way out of a loader process."""

    message: str
    cause: Exception | None


class Fetcher:
    """Makes batches of a map-style data set; picklable where the data set and ``collate`` are.

    Args:
        dataset: map-style; ``__getitems__`` is used where it exists.
        collate: list of samples -> batch; None takes torch's ``default_collate``, or whole columns of a
            `datasets.Dataset` in torch or numpy format, which gives the same faster.
        seed: the job's seed.
        purpose: which random numbers the data code draws, one of ``randomness``.
        code_folder: folder of the user's files, whose lines are named in errors.
    """

    def __init__(
        self, dataset: Any, collate: Collate | None, *, seed: int, purpose: int, code_folder: Path | None
    ) -> None:
        self._dataset = dataset
        self._collate = collate
        self._seed = seed
        self._purpose = purpose
        self._code_folder = code_folder
        self._columnar: ColumnarReader | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_columnar": None}

    def fetch(self, request: FetchRequest) -> Any:
        """The batch of a request; its random numbers depend on the seed and the request's position only.

        Raises:
            RecipeError: where the data set or ``collate`` raise.
        """
        ids = request.ids.tolist()
        with isolated_randomness(keyed_sequence(self._seed, self._purpose, request.position)):
            if self._collate is None and is_columnar(self._dataset):
                if self._columnar is None:
                    self._columnar = ColumnarReader(self._dataset)
                with user_code("Reading the data set", self._code_folder):
                    return self._columnar.read(ids)
            with user_code(f"{type(self._dataset).__name__}.__getitem__", self._code_folder):
                samples = self._samples(ids)
            return collate_samples(samples, self._collate, self._code_folder)

    def __getitem__(self, request: FetchRequest) -> Any:
        """What a loader process calls: a batch, or the failure as a value, since exceptions lose their cause."""
        try:
            return self.fetch(request)
        except OrchestratorError as error:
            return FetchFailure(str(error), _portable(error.__cause__))

    def _samples(self, ids: Sequence[int]) -> list[Any]:
        if hasattr(self._dataset, "__getitems__"):
            return list(self._dataset.__getitems__(ids))
        return [self._dataset[index] for index in ids]


def collate_samples(samples: list[Any], collate: Collate | None, code_folder: Path | None) -> Any:
    """A batch of the samples.

    Raises:
        RecipeError: where ``collate`` raises.
    """
    if collate is None:
        with user_code("Batching samples (the recipe has no collate, so torch's default_collate does it)", code_folder):
            return default_collate(samples)
    with user_code("collate", code_folder):
        return collate(samples)


def unwrap(fetched: Any) -> Any:
    """A batch that a loader process made.

    Raises:
        RecipeError: where it is a failure; the cause is the user's exception, its traceback a note.
    """
    if isinstance(fetched, FetchFailure):
        raise RecipeError(fetched.message) from fetched.cause
    return fetched


def _portable(error: BaseException | None) -> Exception | None:
    """The exception in a form that another process can rebuild; one that cannot be pickled becomes its text."""
    if not isinstance(error, Exception):
        return None
    error.add_note("In a loader process:\n" + "".join(traceback.format_exception(error)))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError("".join(traceback.format_exception(error)))
    return error
