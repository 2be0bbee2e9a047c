"""Numbers as a person reads them."""

from __future__ import annotations

import pytest

from orchestrator.cli.figures import duration, figure, size


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0 s"),
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (7620, "2 h 07 min"),
        (90_000, "1 d 01 h"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (3, "3"),
        (1.0, "1"),
        (0.0123456, "0.01235"),
        (1e-7, "1e-07"),
        (0.98765, "0.9877"),
        (123456, "123,456"),
        (54321.9, "54,322"),
        (float("nan"), "nan"),
        (float("inf"), "inf"),
    ],
)
def test_figure(value: float, text: str) -> None:
    assert figure(value) == text


@pytest.mark.parametrize(
    ("num_bytes", "text"), [(12, "12 bytes"), (2048, "2.0 KiB"), (3 * 2**20, "3.0 MiB"), (5 * 2**40, "5120.0 GiB")]
)
def test_size(num_bytes: int, text: str) -> None:
    assert size(num_bytes) == text
