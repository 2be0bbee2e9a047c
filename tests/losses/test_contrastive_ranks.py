"""Contrastive losses over the samples of several processes: gradients add up to those of one that has them all."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from gloo import run_on_ranks
from losses.contrastive_cases import LOSSES, SIZES, dense, on_this_rank, views, weights
from torch import Tensor
from torch.nn import functional

from orchestrator.core.coupling import Coupling, coupled
from orchestrator.core.errors import RecipeError
from orchestrator.losses import sigmoid_contrastive, softmax_contrastive

pytestmark = pytest.mark.distributed

TOLERANCES = {torch.float32: 1e-6, torch.float64: 1e-12}


def assert_equal(got: dict[str, Tensor], expected: dict[str, Tensor], dtype: torch.dtype, case: Any) -> None:
    assert got.keys() == expected.keys()
    for key, tensor in expected.items():
        torch.testing.assert_close(
            got[key], tensor, rtol=0, atol=TOLERANCES[dtype], msg=lambda text, key=key: f"{case}, {key}: {text}"
        )


@pytest.mark.parametrize("world_size", SIZES)
def test_uneven_shares_add_up_to_one_process(world_size: int) -> None:
    cases = [(name, sizes, dtype, 0) for name in LOSSES for sizes in SIZES[world_size] for dtype in TOLERANCES]
    per_rank = run_on_ranks(world_size, on_this_rank, cases)
    for results in per_rank:  # the sums are the same on every rank
        for case, got in zip(cases, results, strict=True):
            name, sizes, dtype, _ = case
            assert_equal(got, dense(name, sum(sizes), dtype), dtype, case)


def test_a_rank_with_nothing_but_padding_adds_nothing() -> None:
    cases = [(name, (3, 2, 4, 4), torch.float64, 2) for name in LOSSES]
    for case, got in zip(cases, run_on_ranks(4, on_this_rank, cases)[0], strict=True):
        assert_equal(got, dense(case[0], 5, torch.float64), torch.float64, case)


def second_derivatives() -> list[Tensor]:
    """The product of the batch's Hessian with a vector of ones, summed over ranks."""
    products = []
    for loss in LOSSES.values():
        w, (first, second) = weights(torch.float64), views(5, torch.float64)
        own = slice(0, 3) if dist.get_rank() == 0 else slice(3, 5)
        x, y = (functional.normalize(rows[own] @ w[key], dim=1) for rows, key in ((first, "left"), (second, "right")))
        value = loss(x, y, w["log_scale"].exp(), w["bias"]) * len(x) / 5
        gradients = torch.autograd.grad(value, list(w.values()), create_graph=True)
        torch.stack([gradient.sum() for gradient in gradients]).sum().backward()
        products.append(w["left"].grad)
    for product in products:
        dist.all_reduce(product)
    return products


def test_they_can_be_differentiated_twice() -> None:
    from losses.contrastive_cases import MATRICES, loss_of

    for name, got in zip(LOSSES, run_on_ranks(2, second_derivatives)[0], strict=True):
        w = weights(torch.float64)
        value = loss_of(MATRICES[name], w, *views(5, torch.float64))
        gradients = torch.autograd.grad(value, list(w.values()), create_graph=True)
        torch.stack([gradient.sum() for gradient in gradients]).sum().backward()
        torch.testing.assert_close(
            got, w["left"].grad, rtol=0, atol=1e-11, msg=lambda text, name=name: f"{name}: {text}"
        )


def widths_that_differ() -> str:
    rows = torch.ones(2, 3 + dist.get_rank())
    with pytest.raises(RecipeError) as caught:
        softmax_contrastive(rows, rows, 1.0)
    return str(caught.value)


def test_ranks_whose_embeddings_differ_in_width_are_told() -> None:
    assert (
        run_on_ranks(2, widths_that_differ)
        == ["softmax_contrastive: the workers' embeddings are [3, 4] wide. Legal: one width."] * 2
    )


def alone_in_a_group() -> list[float]:
    """As in an evaluation, where ranks have different numbers of batches: only rank 0 calls anything."""
    if dist.get_rank() == 1:
        return []
    rows = functional.normalize(torch.arange(6.0).view(3, 2) - 2, dim=1)
    with coupled(Coupling(spans_ranks=False)):
        return [float(softmax_contrastive(rows, rows, 2.0)), float(sigmoid_contrastive(rows, rows, 2.0, -1.0))]


def test_an_evaluation_waits_for_no_other_rank() -> None:
    assert run_on_ranks(2, alone_in_a_group)[0] == pytest.approx(run_on_ranks(1, alone_in_a_group)[0])
