"""Ranges of the numbers that a coding scheme is made from."""

from __future__ import annotations


def check_range(name: str, value: int, *, least: int, most: int | None = None) -> None:
    """Refuse a number outside of its range.

    Raises:
        ValueError: in one sentence with the name, the value and what is legal.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least or (most is not None and value > most):
        legal = f"at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"Invalid {name} value: {value!r}. Must be an integer {legal}.")


def check_stragglers(stragglers: int, num_workers: int) -> None:
    """Refuse a number of stragglers that leaves no worker.

    Raises:
        ValueError: where either number is out of its range.
    """
    check_range("num_workers", num_workers, least=1)
    check_range("stragglers", stragglers, least=0, most=num_workers - 1)
