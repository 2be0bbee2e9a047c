"""Precision, activation checkpointing and compilation mean the same under every engine."""

from pathlib import Path
from typing import Any

import pytest
import torch
from engines.test_equal import ENGINES
from engines.training import MLP, engine_spec, largest_difference, prepare, run_cases
from gloo import run_on_ranks
from support import weights

from orchestrator.engines.deepspeed import import_deepspeed
from orchestrator.engines.modules import checkpoint_activations, select_modules
from orchestrator.spec.job import ActivationCheckpointing

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(600)]
NAMES = ("ddp", "fsdp2", "zero 0", "zero 2", "zero 3")
SGD = {"name": "sgd", "lr": 0.1, "momentum": 0.9}
STEPS = 8


def train(tmp_path: Path, names: tuple[str, ...], **sections: Any) -> tuple[dict, dict]:
    """Run directories and metrics by engine, on two workers."""
    sections = {"recipe": MLP, "optimizer": SGD, **sections}
    jobs = {name: prepare(tmp_path / name, engine_spec(ENGINES[name], 2, **sections)) for name in names}
    metrics = run_cases(2, [(directory, STEPS) for directory in jobs.values()])
    return jobs, dict(zip(jobs, metrics, strict=True))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory):
    """Eight steps of ddp without any option."""
    jobs, _ = train(tmp_path_factory.mktemp("plain"), ("ddp",))
    return jobs["ddp"]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_precision(tmp_path: Path, plain, precision: str) -> None:
    # The fifth loss of rank 1 overflows in fp16: all ranks skip that step.
    recipe = {**MLP, "args": {"overflow_at": 5}} if precision == "fp16" else MLP
    jobs, metrics = train(tmp_path, NAMES, recipe=recipe, train={"precision": precision})
    effect = largest_difference(plain, jobs["ddp"])
    assert effect > 1e-5, "the precision changed nothing"
    for name, directory in jobs.items():
        assert all(tensor.dtype == torch.float32 for tensor in weights(directory).values())
        assert largest_difference(jobs["ddp"], directory) < effect / 4, name
        scales = [line.get("loss_scale") for line in metrics[name]]
        assert scales == [line.get("loss_scale") for line in metrics["ddp"]], name
    if precision == "fp16":
        assert scales[0] == 2**16
        assert scales[-1] == 2**15


@pytest.mark.parametrize("policy", ["full", "selective"])
def test_activation_checkpointing(tmp_path: Path, plain, policy: str) -> None:
    jobs, _ = train(tmp_path, NAMES, train={"activation_checkpointing": {"policy": policy}})
    differences = {name: largest_difference(plain, directory) for name, directory in jobs.items()}
    assert differences == pytest.approx(dict.fromkeys(jobs, 0.0), abs=1e-6)


def test_compilation(tmp_path: Path, plain) -> None:
    sections = {"activation_checkpointing": {"every": 2}, "compile": "aot_eager"}
    jobs, _ = train(tmp_path, NAMES, train=sections)
    differences = {name: largest_difference(plain, directory) for name, directory in jobs.items()}
    assert differences == pytest.approx(dict.fromkeys(jobs, 0.0), abs=1e-6)


def test_low_precision_weights_of_fsdp2(tmp_path: Path, plain) -> None:
    engine = {"name": "fsdp2", "param_dtype": "bf16", "reduce_dtype": "fp32"}
    directory = prepare(tmp_path / "bf16", engine_spec(engine, 2, recipe=MLP, optimizer=SGD))
    run_cases(2, [(directory, STEPS)])
    assert all(tensor.dtype == torch.float32 for tensor in weights(directory).values())
    assert 1e-5 < largest_difference(plain, directory) < 0.05


def saved_elements(config: ActivationCheckpointing | None) -> int:
    """Elements that a forward keeps for the backward."""
    torch.manual_seed(0)
    layers = [torch.nn.Sequential(torch.nn.Linear(32, 128), torch.nn.GELU(), torch.nn.Linear(128, 32))] * 1
    model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ModuleList(layers)[0], torch.nn.Linear(32, 4))
    if config is not None:
        checkpoint_activations(model, config)
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(torch.randn(64, 8)).sum()
    return sum(kept.values())


def test_checkpointed_activations_are_not_kept() -> None:
    full = ActivationCheckpointing(modules=("1",))
    nothing, everything = saved_elements(full), saved_elements(None)
    assert nothing <= everything - 2 * 64 * 128


def test_patterns_select_outermost_modules_in_the_models_order() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU()))
    assert list(select_modules(model, ("Linear",))) == ["0", "1.0"]
    assert list(select_modules(model, ("1.*", "0"))) == ["0", "1.0", "1.1"]
    assert list(select_modules(model, ("Sequential", "Linear"))) == ["0", "1"]
    assert select_modules(model, None) == {}
    with pytest.raises(Exception, match=r"No module of Sequential matches 'Conv2d'; its classes are Linear, ReLU"):
        select_modules(model, ("Conv2d",))


def compiled_collectives() -> object:
    """DeepSpeed's own collectives over shared memory, where it has made them."""
    deepspeed = import_deepspeed(torch.device("cpu"))
    deepspeed.init_distributed(dist_backend="gloo", auto_mpi_discovery=False)
    return deepspeed.comm.comm.cdb.shm_comm_op


def test_deepspeed_needs_no_compiler() -> None:
    assert run_on_ranks(1, compiled_collectives) == [None]
