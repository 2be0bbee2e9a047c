"""Embedding in chunks against embedding at once: the same gradients, fewer activations, and what is refused."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from orchestrator.core.errors import RecipeError
from orchestrator.losses import embed_in_chunks, sigmoid_contrastive, softmax_contrastive
from orchestrator.train.activations import trace_backward

SAMPLES, INPUTS, HIDDEN, WIDTH = 96, 6, 64, 5


class Towers(nn.Module):
    """Two towers, and a temperature that belongs to the loss."""

    def __init__(self, dropout: float = 0.0, norm: bool = False) -> None:
        super().__init__()
        self.left, self.right = (
            nn.Sequential(
                nn.Linear(INPUTS, HIDDEN),
                nn.BatchNorm1d(HIDDEN) if norm else nn.LayerNorm(HIDDEN),
                nn.GELU(),
                nn.Dropout(dropout),
                nn.Linear(HIDDEN, HIDDEN),
                nn.GELU(),
                nn.Linear(HIDDEN, WIDTH),
            )
            for _ in range(2)
        )
        self.log_scale = nn.Parameter(torch.tensor(1.0))
        self.bias = nn.Parameter(torch.tensor(-1.0))

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, ...]:
        x, y = (nn.functional.normalize(rows, dim=1) for rows in (self.left(first), self.right(second)))
        return x, y, self.log_scale.exp(), self.bias

    def both(self, first: Tensor, second: Tensor) -> tuple[Tensor, ...]:
        return self(first, second)


def views(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, SAMPLES, INPUTS, generator=generator, dtype=torch.float64).to(dtype)
    return first, second


def gradients(model: Towers, chunk_size: int | None, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    torch.manual_seed(7)  # of the dropout
    model.zero_grad()
    x, y, scale, bias = embed_in_chunks(model, views(dtype), chunk_size)
    (sigmoid_contrastive(x, y, scale, bias) + softmax_contrastive(x, y, scale)).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("chunk_size", [1, 7, 32, 96, 1000])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_gradients_are_those_of_all_at_once(chunk_size: int, dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    model = Towers().to(dtype)
    expected, got = gradients(model, None, dtype), gradients(model, chunk_size, dtype)
    assert got.keys() == expected.keys() == {name for name, _ in model.named_parameters()}
    for name, tensor in expected.items():
        bound = tolerance * max(1.0, float(tensor.abs().max()))
        torch.testing.assert_close(got[name], tensor, rtol=0, atol=bound, msg=lambda text, name=name: name + text)


def test_one_dropout_mask_serves_forward_and_backward() -> None:
    torch.manual_seed(0)
    model = Towers(dropout=0.5).double()
    torch.manual_seed(7)
    # The same chunks, nothing of them computed again.
    parts = [model(*chunk) for chunk in zip(*(rows.split(32) for rows in views(torch.float64)), strict=True)]
    x, y = (torch.cat([part[i] for part in parts]) for i in range(2))
    scale, bias = parts[0][2:]
    (sigmoid_contrastive(x, y, scale, bias) + softmax_contrastive(x, y, scale)).backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    for got in (gradients(model, 32), gradients(model, 32)):
        for name, tensor in expected.items():
            torch.testing.assert_close(got[name], tensor, rtol=0, atol=1e-14)


def test_a_methods_module_is_seen_and_one_output_will_do() -> None:
    model = Towers()
    x, y, *_ = embed_in_chunks(model.both, views(torch.float32), 10)
    (left,) = embed_in_chunks(model.left, views(torch.float32)[:1], 10)
    assert [len(rows) for rows in (x, y, left)] == [SAMPLES] * 3
    torch.testing.assert_close(nn.functional.normalize(left, dim=1), x)


def peak_bytes(chunk_size: int | None) -> int:
    """Most that a traced forward and backward hold beside weights and batch."""
    fake = FakeTensorMode()
    with fake:
        model = Towers()

    def loss(model: nn.Module, batch: tuple[Tensor, ...]) -> tuple[Tensor, dict[str, Tensor]]:
        x, y, scale, bias = embed_in_chunks(model, batch, chunk_size)
        return sigmoid_contrastive(x[:4], y[:4], scale, bias) + x.sum() + y.sum(), {}

    segments = trace_backward(model, [], loss, views(torch.float32), fake, nullcontext())
    return max(segment.peak for segment in segments)


def test_activations_are_those_of_one_chunk() -> None:
    peaks = {size: peak_bytes(size) for size in (8, 16, 32, 48)}
    whole = peak_bytes(None)
    per_sample = (peaks[48] - peaks[8]) / 40
    for size in (16, 32):
        assert peaks[size] == pytest.approx(peaks[8] + per_sample * (size - 8), rel=0.02)
    # A sample's activations are at least what the four layers of width HIDDEN of two towers keep.
    assert per_sample >= 2 * 4 * HIDDEN * 4
    assert whole == pytest.approx(peaks[8] + per_sample * (SAMPLES - 8), rel=0.1)
    assert whole > 2.5 * peaks[8]  # which holds the gradients of two layers' weights as well


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((Towers(norm=True), views(torch.float32), 10), r"left\.1 is a BatchNorm1d.*over a chunk.*Legal: layer or"),
        ((Towers(), views(torch.float32), 0), "chunk_size is 0. Legal: a number of samples, or None"),
        ((Towers(), (torch.ones(3, INPUTS), torch.ones(2, INPUTS)), 2), r"inputs of \[3, 2\] samples"),
        ((lambda rows: rows, views(torch.float32)[:1], 2), "whose layers cannot be seen. Legal: a module or a"),
    ],
)
def test_what_would_not_be_exact_is_refused(arguments, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        embed_in_chunks(*arguments)


def test_batch_norm_passes_where_it_does_not_look_at_the_batch() -> None:
    model = Towers(norm=True)
    embed_in_chunks(model, views(torch.float32), None)
    got = embed_in_chunks(model.eval(), views(torch.float32), 10)
    torch.testing.assert_close(got[0], model(*views(torch.float32))[0])
