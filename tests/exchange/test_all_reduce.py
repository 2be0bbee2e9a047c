"""The bucketed all-reduce against a plain sum over ranks."""

import pytest
import torch
from gloo import run_on_ranks
from torch import nn

from orchestrator.core.collectives import Collectives
from orchestrator.exchange.all_reduce import AllReduceExchange, bucketize
from orchestrator.spec.methods.distribution import AllReduce


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return WithIdleParts()


class WithIdleParts(nn.Module):
    """A frozen layer in the middle and one that the loss never touches."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 7)
        self.frozen = nn.Linear(7, 7).requires_grad_(False)
        self.unused = nn.Linear(4, 4)
        self.last = nn.Linear(7, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.frozen(self.first(x).tanh()))


def gradients(bucket_mib: float) -> tuple[list[torch.Tensor], list[torch.Tensor], int]:
    """This rank's exchanged gradients, its local ones, and the bytes of one exchange."""
    collectives = Collectives()
    batches = [torch.randn(4, 5, generator=torch.Generator().manual_seed(10 * collectives.rank + i)) for i in range(3)]
    plain, exchanged = make_model(), make_model()
    for batch in batches:
        plain(batch).square().sum().backward()
    exchange = AllReduceExchange(AllReduce(name="all_reduce", bucket_mib=bucket_mib), collectives)
    parameters = [p for p in exchanged.parameters() if p.requires_grad]
    exchange.attach(parameters)
    num_bytes = 0
    for _ in range(2):  # the second round must not remember the first
        exchange.clear()
        for i, batch in enumerate(batches):
            exchange.begin(is_last=i == len(batches) - 1)
            exchanged(batch).square().sum().backward()
        num_bytes = exchange.finish().bytes_sent
    local = [torch.zeros_like(p) if p.grad is None else p.grad for p in plain.parameters() if p.requires_grad]
    return [p.grad.clone() for p in parameters], local, num_bytes


@pytest.mark.distributed
@pytest.mark.parametrize("bucket_mib", [25.0, 1e-4])
def test_gradients_are_summed_over_ranks(bucket_mib: float) -> None:
    results = run_on_ranks(3, gradients, bucket_mib)
    expected = [sum(parts) for parts in zip(*(local for _, local, _ in results), strict=True)]
    for exchanged, _, num_bytes in results:
        for got, want in zip(exchanged, expected, strict=True):
            torch.testing.assert_close(got, want)
        assert num_bytes == sum(g.numel() for g in exchanged) * 4


def test_alone_it_sends_nothing_and_keeps_the_gradient() -> None:
    exchanged, local, num_bytes = gradients(25.0)
    assert num_bytes == 0
    for got, want in zip(exchanged, local, strict=True):
        torch.testing.assert_close(got, want)


def test_buckets_are_cut_by_size_and_type_last_parameter_first() -> None:
    parameters = [nn.Parameter(torch.zeros(10)) for _ in range(4)]
    parameters.insert(2, nn.Parameter(torch.zeros(10, dtype=torch.float64)))
    sizes = [[p.dtype for p in bucket] for bucket in bucketize(parameters, 80)]
    assert sizes == [[torch.float32] * 2, [torch.float64], [torch.float32] * 2]
    assert bucketize(parameters, 1)[0] == [parameters[-1]]  # a tensor larger than a bucket travels alone
