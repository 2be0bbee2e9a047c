"""One word in the spec changes how a model is divided, never what is computed."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from engines.training import AWKWARD, MLP, SMALL_TEXT, engine_spec, largest_difference, prepare, run_cases
from support import weights

from orchestrator.core.run_directory import RunDirectory

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(600)]

STEPS = 20
ENGINES = {
    "ddp": {"name": "ddp"},
    "fsdp2": {"name": "fsdp2"},
    "fsdp2 by size, resharded late": {"name": "fsdp2", "wrap_min_parameters": 150, "reshard_after_forward": False},
    "fsdp2 by name, offloaded": {"name": "fsdp2", "wrap_modules": ["blocks.*"], "cpu_offload": True},
    "zero 0": {"name": "deepspeed", "zero_stage": 0},
    "zero 1": {"name": "deepspeed", "zero_stage": 1},
    "zero 2": {"name": "deepspeed", "zero_stage": 2},
    "zero 3": {"name": "deepspeed", "zero_stage": 3},
    "zero 2, offloaded": {"name": "deepspeed", "zero_stage": 2, "offload_optimizer": "cpu"},
    "zero 3, offloaded in sub-groups": {
        "name": "deepspeed",
        "zero_stage": 3,
        "offload_optimizer": "cpu",
        "offload_param": "cpu",
        "config": {"zero_optimization": {"sub_group_size": 100}},
    },
    "accelerate fsdp2": {
        "name": "accelerate",
        "config": {
            "distributed_type": "FSDP",
            "fsdp_config": {
                "fsdp_version": 2,
                "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
                "fsdp_transformer_layer_cls_to_wrap": "Block",
            },
        },
    },
    "accelerate zero 3": {
        "name": "accelerate",
        "config": {"distributed_type": "DEEPSPEED", "deepspeed_config": {"zero_stage": 3}},
    },
}
TEXT = {"recipe": SMALL_TEXT, "optimizer": {"name": "adamw", "lr": 0.003, "weight_decay": 0.1}}
HYBRID = {"name": "fsdp2", "mesh": {"replicate": 2}}
Reference = Callable[[str], RunDirectory]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """20 steps of one process, by recipe."""
    folder = tmp_path_factory.mktemp("reference")
    specs = {"mlp": {"recipe": MLP}, "awkward": {"recipe": AWKWARD}, "text": TEXT}
    made = {name: prepare(folder / name, engine_spec({"name": "ddp"}, 1, **spec)) for name, spec in specs.items()}
    run_cases(1, [(directory, STEPS) for directory in made.values()])
    return made.__getitem__


def compare(tmp_path: Path, reference: Reference, world_size: int, name: str, recipe: dict, engines: dict) -> None:
    jobs = {
        title: prepare(tmp_path / title, engine_spec(engine, world_size, recipe)) for title, engine in engines.items()
    }
    run_cases(world_size, [(directory, STEPS) for directory in jobs.values()])
    expected = reference(name)
    differences = {title: largest_difference(expected, directory) for title, directory in jobs.items()}
    assert differences == pytest.approx(dict.fromkeys(jobs, 0.0), abs=1e-6)


@pytest.mark.parametrize("world_size", [2, 3])
def test_odd_sizes(tmp_path: Path, reference: Reference, world_size: int) -> None:
    compare(tmp_path, reference, world_size, "mlp", MLP, ENGINES)


def test_tied_frozen_and_unused_parameters(tmp_path: Path, reference: Reference) -> None:
    # Accelerate's FSDP2 gives a tensor that is tied across its units two owners, which torch refuses.
    engines = {title: engine for title, engine in ENGINES.items() if title != "accelerate fsdp2"}
    compare(tmp_path, reference, 2, "awkward", AWKWARD, engines)
    # The file has the names of the recipe's own state_dict, those of tied tensors too.
    names = weights(reference("awkward")).keys()
    assert {"mixer.weight", "blocks.0.inner.weight", "blocks.1.inner.weight", "blocks.2.inner.weight"} <= names


def test_one_worker(tmp_path: Path, reference: Reference) -> None:
    compare(tmp_path, reference, 1, "mlp", MLP, ENGINES)


def test_four_workers_and_replica_groups(tmp_path: Path, reference: Reference) -> None:
    engines = {"fsdp2": {"name": "fsdp2"}, "hybrid": HYBRID}
    compare(tmp_path, reference, 4, "mlp", MLP, engines)


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_the_text_recipe(tmp_path: Path, reference: Reference, world_size: int) -> None:
    names = ("ddp", "fsdp2", "zero 0", "zero 1", "zero 2", "zero 3", "accelerate fsdp2", "accelerate zero 3")
    engines = {name: ENGINES[name] for name in names}
    if world_size == 4:
        engines = {"fsdp2": {"name": "fsdp2"}, "hybrid": HYBRID}
    jobs = {name: prepare(tmp_path / name, engine_spec(engine, world_size, **TEXT)) for name, engine in engines.items()}
    run_cases(world_size, [(directory, STEPS) for directory in jobs.values()])
    expected = without_key_biases(reference("text"))
    for name, directory in jobs.items():
        got = without_key_biases(directory)
        assert got.keys() == expected.keys()
        for tensor in expected:
            torch.testing.assert_close(got[tensor], expected[tensor], rtol=0, atol=1e-5, msg=f"{name}: {tensor}")


def without_key_biases(directory: RunDirectory) -> dict[str, torch.Tensor]:
    """The weights but for attention's key biases.

    Softmax does not see what is added to all scores of a query, so the gradient of a key bias is zero but for
    rounding, and Adam makes whole steps of rounding: between two orders of summation those weights, which change
    nothing, differ as much as the learning rate lets them. The same happens between one process and two of torch's
    own data parallelism.
    """
    kept = {}
    for name, tensor in weights(directory).items():
        if name.endswith("attention_in.bias"):
            query, _, value = tensor.chunk(3)
            kept[f"{name}[query]"], kept[f"{name}[value]"] = query, value
        else:
            kept[name] = tensor
    return kept
