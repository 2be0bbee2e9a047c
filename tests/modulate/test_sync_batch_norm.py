"""Batch norm over workers against torch's batch norm of one process over the union of their inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from gloo import run_on_ranks
from support import assert_same_weights, make_run_directory, tiny_spec, train_here, train_on, weights
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from orchestrator.core.collectives import Collectives
from orchestrator.core.errors import RecipeError
from orchestrator.core.padding import UNDER_WAY
from orchestrator.core.seeding import seed_everything
from orchestrator.data.sampler import GlobalOrder
from orchestrator.modulate.model.sync_batch_norm import SynchronizedNormalization
from orchestrator.spec.methods.model_modulators import SyncBatchNorm

CHANNELS = 3
SHARES = {1: (7,), 2: (5, 2), 3: (4, 2, 1)}
"""Samples of each rank."""
VARIANTS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "mean of all batches": {"momentum": None},
    "no weights": {"affine": False},
    "no bias": {"bias": False},
    "no statistics": {"track_running_stats": False},
}


def synchronized(model: nn.Module) -> nn.Module:
    return SynchronizedNormalization(SyncBatchNorm(name="sync_batch_norm")).change(model)


def layer(kind: type[nn.Module], **arguments: Any) -> nn.Module:
    """With weights that show a mistake."""
    made = kind(CHANNELS, **arguments).double()
    for scale, parameter in enumerate(made.parameters(), 2):
        nn.init.uniform_(parameter, 0.5, scale, generator=torch.Generator().manual_seed(scale))
    return made


def union(kind: type[nn.Module], seed: int = 0) -> Tensor:
    space = () if kind is nn.BatchNorm1d else (4, 2)
    values = torch.randn(7, CHANNELS, *space, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return values * 2 + 5


def value_of(outputs: Tensor, start: int, stop: int) -> Tensor:
    """A sum over samples, of which every one has coefficients of its own, and in which sums of squares are no help."""
    coefficients = torch.linspace(-1, 1, 7 * outputs[0].numel(), dtype=outputs.dtype).view(7, *outputs.shape[1:])
    return (coefficients[start:stop] * outputs + 0.1 * outputs**3).sum()


Found = dict[str, Tensor]


def steps_of(module: nn.Module, kind: type[nn.Module], start: int, stop: int, dtype: torch.dtype) -> Found:
    """Two forwards and backwards on some of the samples, and one in evaluation; everything that came of them."""
    module.to(dtype)
    found: Found = {}
    for seed in range(2):
        inputs = union(kind, seed)[start:stop].to(dtype).requires_grad_()
        outputs = module(inputs)
        value_of(outputs, start, stop).backward()
        found |= {f"outputs {seed}": outputs.detach(), f"input gradients {seed}": inputs.grad}
    found |= {f"gradient of {name}": parameter.grad for name, parameter in module.named_parameters()}
    found |= dict(module.named_buffers())
    if module.track_running_stats:  # otherwise evaluation, too, is by what a process has
        found["evaluation"] = module.eval()(union(kind)[start:stop].to(dtype)).detach()
    return found


def on_a_rank(dtype: torch.dtype) -> dict[tuple[str, str], Found]:
    """Of every variant, with gradients of parameters summed over ranks."""
    collectives = Collectives()
    shares = SHARES[collectives.world_size]
    start = sum(shares[: collectives.rank])
    found = {}
    for kind in (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm):
        for variant, arguments in VARIANTS.items():
            module = synchronized(layer(kind, **arguments))
            result = steps_of(module, kind, start, start + shares[collectives.rank], dtype)
            for name, tensor in result.items():
                if name.startswith("gradient of"):
                    collectives.sum_(tensor)
            found[kind.__name__, variant] = result
    return found


@pytest.mark.distributed
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("world_size", SHARES)
def test_uneven_workers_are_one(world_size: int, dtype: torch.dtype) -> None:
    tolerance = {"rtol": 0, "atol": 1e-11} if dtype == torch.float64 else {"rtol": 1e-6, "atol": 1e-5}
    ranks = run_on_ranks(world_size, on_a_rank, dtype)
    for kind in (nn.BatchNorm1d, nn.BatchNorm2d):
        for variant, arguments in VARIANTS.items():
            expected = steps_of(layer(kind, **arguments), kind, 0, 7, dtype)
            of_ranks = [rank[kind.__name__, variant] for rank in ranks]
            for name, value in expected.items():
                got = [found[name] for found in of_ranks]
                whole = torch.cat(got) if name.startswith(("outputs", "input", "evaluation")) else got[0]
                torch.testing.assert_close(whole, value, **tolerance, msg=lambda m, n=name: f"{n}: {m}")
            assert [*of_ranks[0]] == [*expected]


@pytest.mark.distributed
def test_the_recipes_own_synchronized_layer_is_one_of_them() -> None:
    (first, _) = run_on_ranks(2, on_a_rank, torch.float64)
    for variant in VARIANTS:
        mine, other = first["SyncBatchNorm", variant], first["BatchNorm2d", variant]
        assert all(torch.equal(mine[name], other[name]) for name in other)


def with_padding() -> tuple[Tensor, Tensor, Tensor]:
    """The last rank computes a sample that counts for nothing."""
    rank = Collectives().rank
    module = synchronized(layer(nn.BatchNorm1d))
    UNDER_WAY.is_padding = rank == 2
    start, stop = [(0, 3), (3, 7), (0, 1)][rank]
    inputs = union(nn.BatchNorm1d)[start:stop].requires_grad_()
    outputs = module(inputs)
    (value_of(outputs, start, stop) * (0.0 if rank == 2 else 1.0)).backward()
    return outputs.detach(), inputs.grad, module.running_var


@pytest.mark.distributed
def test_padding_joins_and_counts_for_nothing() -> None:
    plain = layer(nn.BatchNorm1d)
    inputs = union(nn.BatchNorm1d).requires_grad_()
    outputs = plain(inputs)
    value_of(outputs, 0, 7).backward()
    ranks = run_on_ranks(3, with_padding)
    torch.testing.assert_close(torch.cat([found[0] for found in ranks[:2]]), outputs, rtol=0, atol=1e-12)
    torch.testing.assert_close(torch.cat([found[1] for found in ranks[:2]]), inputs.grad, rtol=0, atol=1e-12)
    assert not ranks[2][1].any()
    for found in ranks:
        torch.testing.assert_close(found[2], plain.running_var, rtol=0, atol=1e-12)


def second_derivatives(module: nn.Module, start: int, stop: int, collectives: Collectives) -> Tensor:
    """The product of the second derivatives by the inputs with ones."""
    inputs = union(nn.BatchNorm1d)[start:stop].requires_grad_()
    (gradient,) = torch.autograd.grad(value_of(module(inputs), start, stop), inputs, create_graph=True)
    (product,) = torch.autograd.grad((gradient**2).sum(), inputs)
    return product


def second_derivatives_here() -> Tensor:
    collectives = Collectives()
    start, stop = [(0, 5), (5, 7)][collectives.rank]
    return second_derivatives(synchronized(layer(nn.BatchNorm1d)), start, stop, collectives)


@pytest.mark.distributed
def test_it_can_be_differentiated_twice() -> None:
    expected = second_derivatives(layer(nn.BatchNorm1d), 0, 7, Collectives())
    got = torch.cat(run_on_ranks(2, second_derivatives_here))
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)


def recomputed_here() -> tuple[Tensor, Tensor, int]:
    rank = Collectives().rank
    module = synchronized(layer(nn.BatchNorm1d))
    start, stop = [(0, 5), (5, 7)][rank]
    inputs = union(nn.BatchNorm1d)[start:stop].requires_grad_()
    outputs = checkpoint(lambda x: module(x).tanh(), inputs, use_reentrant=False)
    value_of(outputs, start, stop).backward()
    return inputs.grad, module.running_mean, int(module.num_batches_tracked)


@pytest.mark.distributed
def test_recomputation_talks_again_and_counts_once() -> None:
    plain = layer(nn.BatchNorm1d)
    inputs = union(nn.BatchNorm1d).requires_grad_()
    value_of(plain(inputs).tanh(), 0, 7).backward()
    ranks = run_on_ranks(2, recomputed_here)
    torch.testing.assert_close(torch.cat([found[0] for found in ranks]), inputs.grad, rtol=0, atol=1e-12)
    for found in ranks:
        torch.testing.assert_close(found[1], plain.running_mean, rtol=0, atol=1e-12)
        assert found[2] == 1


def shifted_here() -> Tensor:
    rank = Collectives().rank
    module = synchronized(nn.BatchNorm1d(1))
    inputs = (torch.linspace(-1, 1, 200) + 1000.0)[100 * rank : 100 * rank + 100].unsqueeze(1)
    return module(inputs)


@pytest.mark.distributed
def test_a_mean_far_from_zero_costs_no_precision() -> None:
    got = torch.cat(run_on_ranks(2, shifted_here))
    expected = nn.BatchNorm1d(1).double()((torch.linspace(-1, 1, 200) + 1000.0).double().unsqueeze(1))
    torch.testing.assert_close(got.double(), expected, rtol=0, atol=1e-4)  # float32 near 1000 is 6e-5 apart


def test_a_model_without_batch_norm_is_told_what_it_has() -> None:
    with pytest.raises(RecipeError, match="sync_batch_norm changes batch norms, and Linear has none; its layers are"):
        synchronized(nn.Linear(2, 2))


def job(root: Path, *, workers: int, size: int, recipe: Any, synchronize: bool, **sections: Any) -> Any:
    return make_run_directory(
        root,
        tiny_spec(
            recipe=recipe,
            batch={"global_size": size, "micro_size": sections.pop("micro_size", None)},
            resources={"workers": workers},
            modulators=[{"name": "sync_batch_norm"}] if synchronize else [],
            **sections,
        ),
    )


MLP = {"target": "tiny.py:Digits", "args": {"batch_norm": True}}
IMAGES = {"target": "convolutional.py:Images"}


@pytest.mark.distributed
@pytest.mark.parametrize("workers", [2, 3])
def test_trainings_on_any_number_of_workers_are_one(tmp_path: Path, workers: int) -> None:
    alone = job(tmp_path / "alone", workers=1, size=47, recipe=MLP, synchronize=False)
    many = job(tmp_path / "many", workers=workers, size=47, recipe=MLP, synchronize=True)
    train_here(str(alone.root))
    train_on(workers, many)
    assert_same_weights(alone, many, atol=1e-5)


@pytest.mark.distributed
def test_micro_batches_of_the_same_number_are_normalized_together(tmp_path: Path) -> None:
    """Five samples, three for one worker and two for the other, one at a time: {0, 3}, {1, 4}, {2} and padding."""
    directory = job(
        tmp_path / "run", workers=2, size=5, micro_size=1, recipe=IMAGES, synchronize=True, train={"steps": 2}
    )
    train_on(2, directory)
    model, rows = plain_images(directory.code)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    order = GlobalOrder(len(rows), 0)
    for step in range(2):
        ids = order.take(step * 5, 5)
        optimizer.zero_grad()
        for together in ((0, 3), (1, 4), (2,)):
            samples = [rows[ids[place]] for place in together]
            logits = model(torch.stack([sample["image"] for sample in samples]))
            labels = torch.tensor([sample["label"] for sample in samples])
            (functional.cross_entropy(logits, labels) * len(together) / 5).backward()
        optimizer.step()
    for name, tensor in weights(directory).items():
        torch.testing.assert_close(tensor, model.state_dict()[name], rtol=0, atol=1e-5)


def plain_images(code: Path) -> tuple[nn.Module, Any]:
    """The recipe's model as a job of seed 0 makes it, and its training samples."""
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("plain_images", code / "convolutional.py")
    assert spec is not None
    assert spec.loader is not None
    recipe = module_from_spec(spec)
    spec.loader.exec_module(recipe)
    rows, _ = recipe.Images().build_datasets()
    seed_everything(0)
    return recipe.Images().build_model(), rows
