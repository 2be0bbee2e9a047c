"""LAMB steps on GPUs: Triton kernels over chunks of all tensors at once, for float32 and bfloat16."""

# ruff: noqa: N803
# mypy: disable-error-code="no-untyped-def, untyped-decorator"
from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from orchestrator.optim.kernels.lamb import (
    Coefficients,
    EagerLamb,
    LambBatch,
    lie_alike,
    trust_ratios,
)

_CHUNK = 2**14
"""Elements of one program and of one partial sum."""
_BLOCK = 2**10
"""Elements of one program at a time."""
_COLUMNS = 8
_TYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16}


class TritonLamb:
    """LAMB in one kernel for each phase, whatever the number of tensors; other types or layouts run eagerly.

    Sums are added in a fixed order, so that a step repeats itself to the bit. Numbers are computed in float32.
    """

    title = "Triton"

    def __init__(self) -> None:
        self._eager = EagerLamb()

    def measure(self, batch: LambBatch) -> Tensor:
        """See the protocol."""
        types = _types(batch)
        if types is None:
            return self._eager.measure(batch)
        table, device = _table(tuple(t.numel() for t in batch.p), batch.p[0].device), batch.p[0].device
        sums = torch.zeros(len(batch.p), 2, dtype=torch.float64, device=device)
        if table.num_chunks:
            partial = torch.empty(table.num_chunks, 2, dtype=torch.float32, device=device)
            _measure_chunk[(table.num_chunks,)](
                _pointers(batch), _numbers(batch.coefficients, device), table.tensors, table.starts, table.sizes,
                partial, len(batch.p), *types, _COLUMNS, _CHUNK, _BLOCK,
            )  # fmt: skip
            _add_chunks[(len(batch.p),)](partial, table.firsts, sums, _BLOCK)
        return sums

    def apply(self, batch: LambBatch, ratios: Tensor) -> None:
        """See the protocol."""
        types = _types(batch)
        if types is None:
            self._eager.apply(batch, ratios)
            return
        table, device = _table(tuple(t.numel() for t in batch.p), batch.p[0].device), batch.p[0].device
        if table.num_chunks:
            lrs = torch.tensor([c.lr for c in batch.coefficients], dtype=torch.float64)
            rates = (lrs.to(device, non_blocking=True) * ratios).float()
            _apply_chunk[(table.num_chunks,)](
                _pointers(batch), _numbers(batch.coefficients, device), rates, table.tensors, table.starts,
                table.sizes, len(batch.p), types[0], types[2], types[3], _COLUMNS, _CHUNK, _BLOCK,
            )  # fmt: skip
            torch.autograd.graph.increment_version(batch.p)

    def update(self, batch: LambBatch) -> Tensor:
        """See the protocol."""
        sums = self.measure(batch)
        self.apply(batch, trust_ratios(sums, batch.coefficients))
        return sums


def _types(batch: LambBatch) -> tuple[tl.dtype, ...] | None:
    """Types of p, g, m and v where the kernels take the batch: one type in each list, and memory alike."""
    found = [{t.dtype for t in tensors} for tensors in (batch.p, batch.g, batch.m, batch.v)]
    if any(len(types) != 1 or not types <= _TYPES.keys() for types in found):
        return None
    if not all(map(lie_alike, zip(batch.p, batch.g, batch.m, batch.v, strict=True))):
        return None
    return tuple(_TYPES[types.pop()] for types in found)


class _Table:
    """Which elements each program works on: chunks of tensors, one after the other."""

    def __init__(self, sizes: Sequence[int], device: torch.device) -> None:
        counts = [-(-size // _CHUNK) for size in sizes]
        places = [(tensor, chunk * _CHUNK) for tensor, count in enumerate(counts) for chunk in range(count)]
        firsts = [sum(counts[:tensor]) for tensor in range(len(counts) + 1)]
        self.num_chunks = len(places)
        self.tensors, self.starts, self.sizes, self.firsts = (
            torch.tensor(values, dtype=torch.int64).to(device, non_blocking=True)
            for values in ([t for t, _ in places], [start for _, start in places], list(sizes), firsts)
        )


@lru_cache(maxsize=64)
def _table(sizes: tuple[int, ...], device: torch.device) -> _Table:
    return _Table(sizes, device)


def _pointers(batch: LambBatch) -> Tensor:
    """Addresses of p, g, m and v, [4, n]."""
    rows = [[t.data_ptr() for t in tensors] for tensors in (batch.p, batch.g, batch.m, batch.v)]
    return torch.tensor(rows, dtype=torch.int64).to(batch.p[0].device, non_blocking=True)


def _numbers(coefficients: Sequence[Coefficients], device: torch.device) -> Tensor:
    """What the kernels read of each tensor's coefficients, computed in float64, [n, 8]."""
    rows = [
        (c.beta1, 1 - c.beta1, c.beta2, 1 - c.beta2, 1 / c.correction1, 1 / c.correction2, c.eps, c.weight_decay)
        for c in coefficients
    ]
    return torch.tensor(rows, dtype=torch.float32).to(device, non_blocking=True)


@triton.jit
def _direction(p, m, v, row):
    scale1, scale2 = tl.load(row + 4), tl.load(row + 5)
    return (m * scale1) / (tl.sqrt(v * scale2) + tl.load(row + 6)) + tl.load(row + 7) * p


@triton.jit
def _measure_chunk(
    pointers, numbers, tensors, starts, sizes, partial, n,
    P: tl.constexpr, G: tl.constexpr, M: tl.constexpr, V: tl.constexpr,
    COLUMNS: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    chunk = tl.program_id(0).to(tl.int64)
    tensor, start = tl.load(tensors + chunk), tl.load(starts + chunk)
    size = tl.load(sizes + tensor)
    p_at = tl.load(pointers + tensor).to(tl.pointer_type(P))
    g_at = tl.load(pointers + n + tensor).to(tl.pointer_type(G))
    m_at = tl.load(pointers + 2 * n + tensor).to(tl.pointer_type(M))
    v_at = tl.load(pointers + 3 * n + tensor).to(tl.pointer_type(V))
    row = numbers + tensor * COLUMNS
    beta1, rest1, beta2, rest2 = tl.load(row), tl.load(row + 1), tl.load(row + 2), tl.load(row + 3)
    p_squares = tl.zeros([BLOCK], tl.float32)
    u_squares = tl.zeros([BLOCK], tl.float32)
    for begin in range(0, CHUNK, BLOCK):
        at = start + begin + tl.arange(0, BLOCK)
        here = at < size
        p = tl.load(p_at + at, mask=here, other=0.0).to(tl.float32)
        g = tl.load(g_at + at, mask=here, other=0.0).to(tl.float32)
        # Rounded as they will be read again, so that the norm is that of the step taken.
        m = (beta1 * tl.load(m_at + at, mask=here, other=0.0).to(tl.float32) + rest1 * g).to(M)
        v = (beta2 * tl.load(v_at + at, mask=here, other=0.0).to(tl.float32) + rest2 * (g * g)).to(V)
        tl.store(m_at + at, m, mask=here)
        tl.store(v_at + at, v, mask=here)
        u = tl.where(here, _direction(p, m.to(tl.float32), v.to(tl.float32), row), 0.0)
        p_squares += p * p
        u_squares += u * u
    tl.store(partial + 2 * chunk, tl.sum(p_squares, axis=0))
    tl.store(partial + 2 * chunk + 1, tl.sum(u_squares, axis=0))


@triton.jit
def _add_chunks(partial, firsts, sums, BLOCK: tl.constexpr):
    tensor = tl.program_id(0).to(tl.int64)
    first, last = tl.load(firsts + tensor), tl.load(firsts + tensor + 1)
    p_sum = tl.zeros([BLOCK], tl.float64)
    u_sum = tl.zeros([BLOCK], tl.float64)
    for begin in range(first, last, BLOCK):
        at = begin + tl.arange(0, BLOCK)
        p_sum += tl.load(partial + 2 * at, mask=at < last, other=0.0).to(tl.float64)
        u_sum += tl.load(partial + 2 * at + 1, mask=at < last, other=0.0).to(tl.float64)
    tl.store(sums + 2 * tensor, tl.sum(p_sum, axis=0))
    tl.store(sums + 2 * tensor + 1, tl.sum(u_sum, axis=0))


@triton.jit
def _apply_chunk(
    pointers, numbers, rates, tensors, starts, sizes, n,
    P: tl.constexpr, M: tl.constexpr, V: tl.constexpr,
    COLUMNS: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    chunk = tl.program_id(0).to(tl.int64)
    tensor, start = tl.load(tensors + chunk), tl.load(starts + chunk)
    size, rate = tl.load(sizes + tensor), tl.load(rates + tensor)
    p_at = tl.load(pointers + tensor).to(tl.pointer_type(P))
    m_at = tl.load(pointers + 2 * n + tensor).to(tl.pointer_type(M))
    v_at = tl.load(pointers + 3 * n + tensor).to(tl.pointer_type(V))
    for begin in range(0, CHUNK, BLOCK):
        at = start + begin + tl.arange(0, BLOCK)
        here = at < size
        p = tl.load(p_at + at, mask=here, other=0.0).to(tl.float32)
        m = tl.load(m_at + at, mask=here, other=0.0).to(tl.float32)
        v = tl.load(v_at + at, mask=here, other=0.0).to(tl.float32)
        step = rate * _direction(p, m, v, numbers + tensor * COLUMNS)
        tl.store(p_at + at, (p - step).to(P), mask=here)
