"""LAMB steps in one C++ library that every machine compiles for itself, once: for float32 tensors in host memory."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from orchestrator.optim.kernels.lamb import COLUMNS, EagerLamb, LambBatch, UnavailableError, lie_alike

_SOURCE = Path(__file__).with_name("lamb_fused.cpp")
_FLAGS = ["-O3", "-std=c++17", "-shared", "-fPIC", "-fopenmp", "-fno-math-errno", "-fno-trapping-math"]
# Contraction to fma would make the bits depend on the processor. No -ffast-math: inf and nan must come through.
_FLAGS += ["-ffp-contract=off"]
_VECTORS = {"AVX2": ["-mavx2"], "AVX512": ["-mavx512f", "-mavx512vl", "-mavx512dq", "-mavx512bw"]}
_BUILD_S = 120.0
"""How long one build may take, and how long other ranks wait for it before they build on their own."""


class FusedLamb:
    """LAMB in C++, on as many threads as torch uses; other tensors than contiguous float32 ones on the CPU run eagerly.

    The results are the same bits for every number of threads and on every processor.

    Raises:
        UnavailableError: if the library cannot be built or loaded; says why.
    """

    def __init__(self) -> None:
        self._library = load_library()
        self._eager = EagerLamb()
        self.title = f"C++ ({torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads)"

    def measure(self, batch: LambBatch) -> Tensor:
        """See the protocol."""
        return _with_sums(self._library.lamb_measure, batch) if supports(batch) else self._eager.measure(batch)

    def apply(self, batch: LambBatch, ratios: Tensor) -> None:
        """See the protocol."""
        if not supports(batch):
            self._eager.apply(batch, ratios)
            return
        call = _Call(batch)
        kept = ratios.contiguous()
        self._library.lamb_apply(call.n, call.sizes, call.p, call.m, call.v, call.rows, call.threads, kept.data_ptr())
        torch.autograd.graph.increment_version(batch.p)

    def update(self, batch: LambBatch) -> Tensor:
        """See the protocol."""
        if not supports(batch):
            return self._eager.update(batch)
        sums = _with_sums(self._library.lamb_update, batch)
        torch.autograd.graph.increment_version(batch.p)
        return sums


def supports(batch: LambBatch) -> bool:
    """Whether every tensor is float32 on the CPU, and those of one parameter lie in memory alike."""
    return all(
        all(t.dtype == torch.float32 and t.is_cpu for t in tensors) and lie_alike(tensors)
        for tensors in zip(batch.p, batch.g, batch.m, batch.v, strict=True)
    )


class _Call:
    """What the functions of the library take, of one batch."""

    def __init__(self, batch: LambBatch) -> None:
        self.n = len(batch.p)
        self.sizes = (ctypes.c_int64 * self.n)(*(t.numel() for t in batch.p))
        self.p, self.g, self.m, self.v = map(_pointers, (batch.p, batch.g, batch.m, batch.v))
        numbers = chain.from_iterable(map(attrgetter(*COLUMNS), batch.coefficients))
        self.rows = (ctypes.c_double * (self.n * len(COLUMNS)))(*numbers)
        self.threads = torch.get_num_threads()


def _with_sums(function: Any, batch: LambBatch) -> Tensor:
    """Call a function of the library that reads gradients and leaves sums; returns them, [n, 2]."""
    sums = torch.empty(len(batch.p), 2, dtype=torch.float64)
    call = _Call(batch)
    function(call.n, call.sizes, call.p, call.g, call.m, call.v, call.rows, call.threads, sums.data_ptr())
    return sums


def _pointers(tensors: Sequence[Tensor]) -> ctypes.Array[Any]:
    return (ctypes.c_void_p * len(tensors))(*map(Tensor.data_ptr, tensors))


@cache
def load_library() -> ctypes.CDLL:
    """The compiled library, built first where the cache of torch's extensions does not hold it.

    Raises:
        UnavailableError: if it cannot be built or loaded.
    """
    try:
        library = ctypes.CDLL(str(_built()))
    except OSError as error:
        raise UnavailableError(f"the C++ kernels cannot be built or loaded: {error}.") from error
    count, pointer, number = ctypes.c_int64, ctypes.c_void_p, ctypes.c_int
    for function, num_tables in ((library.lamb_measure, 6), (library.lamb_apply, 5), (library.lamb_update, 6)):
        function.restype = None
        function.argtypes = [count, *[pointer] * num_tables, number, pointer]
    return library


def _built() -> Path:
    from torch.utils import cpp_extension  # slow to import

    compiler = cpp_extension.get_cxx_compiler()
    flags = [*_FLAGS, *_VECTORS.get(torch.backends.cpu.get_cpu_capability(), [])]
    text = " ".join([platform.machine(), *flags]).encode() + _SOURCE.read_bytes()
    root = os.environ.get("TORCH_EXTENSIONS_DIR") or cpp_extension.get_default_build_root()
    folder = Path(root, "orchestrator")
    library = folder / f"lamb_{hashlib.sha256(text).hexdigest()[:16]}.so"
    if library.exists():
        return library
    if shutil.which(compiler) is None:
        raise UnavailableError(f"the C++ kernels need a compiler and {compiler!r} is not on PATH; CXX may name one.")
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(library.with_suffix(".lock"))
    # The kernel frees the lock of a process that died. One that hangs, or a file system without locks, costs the
    # others a build of their own: a whole library replaces whatever is there.
    with suppress(Timeout, NotImplementedError):
        lock.acquire(timeout=_BUILD_S)
    try:
        if not library.exists():
            _compile([compiler, *flags], library)
    finally:
        lock.release()
    return library


def _compile(command: list[str], library: Path) -> None:
    """Write the library, whole or not at all."""
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        fresh = Path(folder, library.name)
        try:
            subprocess.run(
                [*command, str(_SOURCE), "-o", str(fresh)], capture_output=True, text=True, check=True, timeout=_BUILD_S
            )
        except subprocess.TimeoutExpired as error:
            raise UnavailableError(f"the C++ kernels took over {_BUILD_S:.0f} s to compile.") from error
        except subprocess.CalledProcessError as error:
            first = next((line for line in error.stderr.splitlines() if "error" in line), error.stderr.strip())
            raise UnavailableError(f"the C++ kernels do not compile: {first}") from error
        fresh.replace(library)
