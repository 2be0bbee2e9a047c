"""Ranges of the numbers that a trace is made from."""

from __future__ import annotations

from math import inf, isfinite


def check_number(name: str, value: float, *, least: float, most: float = inf) -> None:
    """Refuse a number outside of its range.

    Raises:
        ValueError: in one sentence with the name, the value and what is legal.
    """
    if not (isfinite(value) and least <= value <= most):
        legal = f"a finite number of at least {least:g}" if most == inf else f"from {least:g} to {most:g}"
        raise ValueError(f"Invalid {name} value: {value:g}. Must be {legal}.")


def check_probability(name: str, value: float) -> None:
    """Refuse what is no probability.

    Raises:
        ValueError: in one sentence with the name, the value and what is legal.
    """
    check_number(name, value, least=0.0, most=1.0)
