"""`batch.micro_size: auto`: the largest micro-batch that fits into a worker's memory, found by trying.

The sizes are those that halving gives from a worker's whole share down. They are tried from the smallest up, each with
two backwards and a step of an engine that is thrown away, and only while the size after is expected to fit: so no rank
runs out of memory while the others wait for it. The global batch stays what it is.
"""

from __future__ import annotations

import gc
import hashlib
import json
import platform
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from orchestrator.core.errors import RecipeError
from orchestrator.core.protocols import Engine, LossFunction, TrainData
from orchestrator.core.run_directory import write_atomically
from orchestrator.core.values import BatchPlan
from orchestrator.spec.job import JobSpec
from orchestrator.spec.phases import largest_batch
from orchestrator.train.context import RankContext

CACHE_FOLDER = ".micro_sizes"
"""In the storage, beside the run directories."""
SHARE_OF_FREE_MEMORY = 0.9
"""Of what is free, what a job takes that was not told how much it may: evaluation and checkpoints want some as well."""
_GIB = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """An answer."""

    micro_size: int
    """In samples."""
    peak_bytes: int
    """Most memory of a rank when it was tried."""
    limit_bytes: int
    """Least memory that a rank may take."""


def candidates(share: int) -> list[int]:
    """A worker's share of a step and what halving gives of it, rounded up, smallest first."""
    sizes = [share]
    while sizes[-1] > 1:
        sizes.append(-(-sizes[-1] // 2))
    return sizes[::-1]


def largest_fitting(sizes: Sequence[int], peak_of: Callable[[int], int | None], limit_bytes: int) -> Found | None:
    """The largest size whose peak is within the limit; None where not even the smallest is.

    Args:
        sizes: increasing.
        peak_of: tries a size: the memory that it took in bytes, equal on all ranks; None where there was too little.
        limit_bytes: most that it may take.

    Raises:
        RecipeError: where the recipe takes none of the sizes.
    """
    peaks: list[tuple[int, int]] = []
    refusal: RecipeError | None = None
    for size in sizes:
        if _expected(peaks, size) > limit_bytes:
            break
        try:
            peak = peak_of(size)
        except RecipeError as error:
            # Some models take no single sample, as with batch norm.
            if peaks:
                raise
            refusal = error
            continue
        if peak is None or peak > limit_bytes:
            break
        peaks.append((size, peak))
    if not peaks:
        if refusal is not None:
            raise refusal
        return None
    return Found(micro_size=peaks[-1][0], peak_bytes=peaks[-1][1], limit_bytes=limit_bytes)


def _expected(peaks: Sequence[tuple[int, int]], size: int) -> float:
    """The line through the last two peaks; nothing is expected of the first two sizes."""
    if len(peaks) < 2:
        return 0.0
    (before, low), (last, high) = peaks[-2:]
    return high + (size - last) * (high - low) / (last - before)


class MicroSizeSearch:
    """The search on one rank; all ranks search together.

    Args:
        spec: the job.
        context: of this rank.
        build_engine: makes an engine as the job's own will be.
        build_data: makes the training data from their start.
        loss: of the recipe.
    """

    def __init__(
        self,
        spec: JobSpec,
        context: RankContext,
        *,
        build_engine: Callable[[], Engine],
        build_data: Callable[[], TrainData],
        loss: LossFunction,
    ) -> None:
        self._spec = spec
        self._context = context
        self._build_engine = build_engine
        self._build_data = build_data
        self._loss = loss
        self._on_gpu = context.device.type == "cuda"

    def run(self) -> tuple[Found, bool]:
        """The answer, and whether it was found before: for the same model and job on the same kind of machine.

        Raises:
            RecipeError: where one sample does not fit.
        """
        cache = self._context.run_directory.storage / CACHE_FOLDER / f"{self._key()}.json"
        known = self._agreed(_read(cache) if self._context.collectives.rank == 0 else None)
        if known is not None:
            return known, True
        # Every rank has the same sizes to try; the one with the least memory decides.
        limit = min(self._context.collectives.all_gather_object(self._limit()))
        share = -(-largest_batch(self._spec) // self._context.collectives.world_size)
        found = self._try(candidates(share), limit)
        # What was tried with is garbage now, and must not lie beside the job's own.
        gc.collect()
        if self._on_gpu:
            torch.cuda.empty_cache()
        if found is None:
            raise RecipeError(
                f"batch.micro_size: auto: a single sample takes more than the {limit / _GIB:.2f} GiB that a worker "
                "has. Legal: a smaller model, an engine that divides it, more memory, or a micro_size of your own."
            )
        if self._context.collectives.rank == 0:
            cache.parent.mkdir(exist_ok=True)
            write_atomically(cache, json.dumps(asdict(found)))
        return found, False

    def _try(self, sizes: Sequence[int], limit_bytes: int) -> Found | None:
        engine = self._build_engine()
        try:
            return largest_fitting(sizes, lambda size: self._peak(engine, size), limit_bytes)
        finally:
            engine.close()

    def _agreed(self, known: Found | None) -> Found | None:
        """Rank 0's."""
        found: Found | None = self._context.collectives.all_gather_object(known)[0]
        return found

    def _peak(self, engine: Engine, size: int) -> int | None:
        """Memory of the rank with the most after two backwards of a size and a step; None where one had too little.

        Raises:
            RecipeError: where user code fails for another reason.
        """
        if self._on_gpu:
            torch.cuda.reset_peak_memory_stats()
        peak: int | None = None
        refusal: str | None = None
        try:
            self._step(engine, size)
            peak = self._used()
        except torch.OutOfMemoryError:
            pass
        except RecipeError as error:
            refusal = None if isinstance(error.__cause__, torch.OutOfMemoryError) else str(error)
        tried = self._context.collectives.all_gather_object((peak, refusal))
        for _, reason in tried:
            if reason is not None:
                raise RecipeError(reason)
        peaks = [peak for peak, _ in tried]
        return None if None in peaks else max(peaks)

    def _step(self, engine: Engine, size: int) -> None:
        num_samples = 2 * size * self._context.collectives.world_size
        with closing(self._build_data()) as data:
            _, micro_batches = data.step(BatchPlan(global_batch_size=num_samples, micro_batch_size=size))
            engine.begin_step()
            for micro in micro_batches:
                engine.forward_backward(micro, self._loss)
            engine.step(0.0)

    def _used(self) -> int:
        """Most memory of this rank so far; on a GPU since the last reset."""
        return torch.cuda.max_memory_reserved() if self._on_gpu else _resident("VmHWM")

    def _limit(self) -> int:
        """Memory that this rank may take in all, in bytes."""
        told = self._spec.resources.memory_gib_per_worker
        if told is not None:
            return int(told * _GIB)
        if self._on_gpu:
            free, _ = torch.cuda.mem_get_info()
            return int(SHARE_OF_FREE_MEMORY * free) + torch.cuda.memory_reserved()
        nodes = self._context.nodes
        sharing = nodes.count(nodes[self._context.collectives.rank])
        return int(SHARE_OF_FREE_MEMORY * _free_host_bytes() / sharing) + _resident("VmRSS")

    def _key(self) -> str:
        """A hash of all that the answer depends on, but for what else is running."""
        spec, context = self._spec, self._context
        sections = {"recipe", "engine", "exchange", "optimizer", "batch", "resources", "data"}
        code = [(path.name, path.read_bytes().hex()) for path in sorted(context.run_directory.code.glob("*.py"))]
        device = torch.cuda.get_device_properties(context.device) if self._on_gpu else psutil.virtual_memory().total
        values = {
            "spec": spec.model_dump(mode="json", include=sections),
            "train": [spec.train.precision, str(spec.train.activation_checkpointing), spec.train.compile],
            "code": code,
            "world_size": context.collectives.world_size,
            "machine": [platform.machine(), str(device), torch.__version__],
        }
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:32]


def _read(cache: Path) -> Found | None:
    try:
        values: dict[str, Any] = json.loads(cache.read_text(encoding="utf-8"))
        return Found(**values)
    except (OSError, ValueError, TypeError):
        return None  # not there, or not ours: found anew


def _resident(field: str) -> int:
    """A size of this process from the kernel, in bytes; where it tells none, the present one."""
    status = Path("/proc/self/status")
    if not status.exists():
        return int(psutil.Process().memory_info().rss)
    lines = status.read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024


def _free_host_bytes() -> int:
    """What is free on the machine, or in the container where that is less."""
    free = int(psutil.virtual_memory().available)
    try:
        limit, current = (
            Path(f"/sys/fs/cgroup/memory.{name}").read_text(encoding="utf-8").strip() for name in ("max", "current")
        )
    except OSError:
        return free
    return free if limit == "max" else min(free, int(limit) - int(current))
