"""Numbers as a person reads them: durations, rates, learning rates."""

from __future__ import annotations

import math


def duration(seconds: float) -> str:
    """Seconds as `12 s`, `3 min 05 s`, `2 h 07 min` or `3 d 04 h`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600:02d} h"


def figure(value: float | str) -> str:
    """Four significant digits; whole numbers as they are, with a comma per thousand; also ``"NaN"`` and the like."""
    number = float(value)
    if not math.isfinite(number):
        return str(number)
    if number == int(number) and abs(number) < 1e15:
        return f"{int(number):,}"
    return f"{number:.4g}" if abs(number) < 1e4 else f"{number:,.0f}"


def size(num_bytes: float) -> str:
    """Bytes in KiB, MiB or GiB."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if num_bytes < 1024 or unit == "GiB":
            break
        num_bytes /= 1024
    return f"{num_bytes:.0f} {unit}" if unit == "bytes" else f"{num_bytes:.1f} {unit}"


def counted(number: float, noun: str) -> str:
    """`1 worker`, `2 workers`, `1,000 files`."""
    return f"{figure(number)} {noun}" if number == 1 else f"{figure(number)} {noun}s"
