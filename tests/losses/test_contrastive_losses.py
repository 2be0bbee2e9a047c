"""Contrastive losses in one process: their equations, limits, what they hold, and what they refuse."""

from __future__ import annotations

import math

import pytest
import torch
from losses.contrastive_cases import LOSSES, dense, in_numpy, loss_of, views, weights
from torch import Tensor
from torch.nn import functional

from orchestrator.core.coupling import Coupling, coupled
from orchestrator.core.errors import RecipeError
from orchestrator.losses import sigmoid_contrastive, softmax_contrastive


def embedded(num_samples: int) -> tuple[Tensor, Tensor]:
    w, (first, second) = weights(torch.float64), views(num_samples, torch.float64)
    return functional.normalize(first @ w["left"], dim=1).detach(), functional.normalize(
        second @ w["right"], dim=1
    ).detach()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("num_samples", [1, 2, 11])
def test_they_are_their_equations(name: str, num_samples: int) -> None:
    x, y = embedded(num_samples)
    got = LOSSES[name](x, y, torch.tensor(3.0), torch.tensor(-2.0))
    assert float(got) == pytest.approx(in_numpy(name, x.numpy(), y.numpy(), 3.0, -2.0), abs=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_the_whole_matrix(name: str) -> None:
    w = weights(torch.float64)
    loss_of(LOSSES[name], w, *views(11, torch.float64)).backward()
    expected = dense(name, 11, torch.float64)
    for key, tensor in w.items():
        torch.testing.assert_close(tensor.grad, expected[key], rtol=0, atol=1e-12)


def test_what_they_are_where_nothing_is_known() -> None:
    same = torch.ones(8, 1)
    assert float(softmax_contrastive(same, same, 5.0)) == pytest.approx(math.log(8))
    assert float(softmax_contrastive(same[:1], same[:1], 5.0)) == 0.0  # a pair alone is always told
    assert float(sigmoid_contrastive(same, same, 0.0, 0.0)) == pytest.approx(8 * math.log(2))


def test_large_logits_stay_finite_and_exact() -> None:
    x = torch.eye(3)
    value = sigmoid_contrastive(x, x, 200.0, -100.0)
    assert float(value) == pytest.approx(3 * math.exp(-100), rel=1e-4)
    assert math.isfinite(float(softmax_contrastive(x, -x, 1e4)))


def test_half_precision_embeddings_are_compared_in_full() -> None:
    x, y = (rows.bfloat16() for rows in embedded(9))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = softmax_contrastive(x, y, 3.0), sigmoid_contrastive(x, y, 3.0, -2.0)
    assert [value.dtype for value in got] == [torch.float32] * 2
    rows = x.float().numpy(), y.float().numpy()
    expected = [in_numpy(name, *rows, 3.0, -2.0) for name in ("softmax", "sigmoid, shifted")]
    assert [float(value) for value in got] == pytest.approx(expected, abs=1e-5)


def test_the_sigmoid_keeps_no_matrix() -> None:
    x, y = (rows.requires_grad_() for rows in embedded(64))
    sizes: list[int] = []

    def kept(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(kept, lambda tensor: tensor):
        sigmoid_contrastive(x, y, 3.0, -2.0)
        assert max(sizes, default=0) < 64 * 64
        softmax_contrastive(x, y, 3.0)
        assert max(sizes) >= 64 * 64  # which the other one does


@pytest.mark.parametrize("loss", ["softmax_contrastive", "sigmoid_contrastive"])
@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.ones(3, 2), torch.ones(2, 2), r"x has the shape \[3, 2\] and y \[2, 2\]"),
        (torch.ones(3), torch.ones(3), r"x has the shape \[3\]"),
    ],
)
def test_shapes_of_another_form_are_refused(loss: str, x: Tensor, y: Tensor, message: str) -> None:
    with pytest.raises(RecipeError, match=rf"{loss}: {message}.*Legal: two of one shape"):
        _call(loss, x, y)


@pytest.mark.parametrize("loss", ["softmax_contrastive", "sigmoid_contrastive"])
def test_parts_of_a_batch_are_refused(loss: str) -> None:
    rows = torch.ones(3, 2)
    with coupled(Coupling(refusal="for a reason.")), pytest.raises(RecipeError, match=f"{loss} couples.*for a reason"):
        _call(loss, rows, rows)
    _call(loss, rows, rows)  # the block is over


def test_an_unknown_exchange_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"exchange: 'ring'\. Legal: shift, bidirectional\."):
        sigmoid_contrastive(torch.ones(3, 2), torch.ones(3, 2), 1.0, 0.0, exchange="ring")  # type: ignore[arg-type]


def _call(loss: str, x: Tensor, y: Tensor) -> Tensor:
    return softmax_contrastive(x, y, 1.0) if loss == "softmax_contrastive" else sigmoid_contrastive(x, y, 1.0, 0.0)
