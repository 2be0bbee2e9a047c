"""What DeepSpeed is started with; tests/spec/bad_engines.py has what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from deepspeed.runtime.config import DeepSpeedConfig

from orchestrator.spec.check_deepspeed import deepspeed_problems
from orchestrator.spec.deepspeed_config import resolve_deepspeed_config
from orchestrator.spec.job import JobSpec

JOBS_OWN = {
    "train_micro_batch_size_per_gpu": 12,
    "gradient_accumulation_steps": 1,
    "gradient_clipping": 0.0,
    "zero_optimization": {"stage": 2},
    "zero_allow_untested_optimizer": True,
    "zero_force_ds_cpu_optimizer": False,
    "fp16": {"enabled": False},
    "bf16": {"enabled": False},
}
FROM_A_TEAM = {
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "steps_per_print": 2000,
    "wall_clock_breakdown": False,
    "communication_data_type": "fp32",
    "fp16": {"enabled": "auto", "loss_scale": 0, "loss_scale_window": 1000, "initial_scale_power": 16, "hysteresis": 2},
    "bf16": {"enabled": False},
    "comms_logger": {"enabled": False, "prof_ops": ["all_reduce"]},
    "flops_profiler": {"enabled": False, "module_depth": -1, "output_file": None},
    "zero_optimization": {
        "stage": 3,
        "overlap_comm": False,
        "contiguous_gradients": True,
        "sub_group_size": 1e9,
        "reduce_bucket_size": "auto",
        "stage3_prefetch_bucket_size": "auto",
        "stage3_max_live_parameters": 1e9,
        "stage3_gather_16bit_weights_on_model_save": True,
        "offload_optimizer": {"device": "cpu", "pin_memory": True},
        "offload_param": {"device": "none"},
    },
    "zero_allow_untested_optimizer": True,
    "dataloader_drop_last": False,
    "autotuning": {"enabled": False},
}


def job(config: Any, *, batch: dict[str, int] | None = None, clip: float | None = None, **engine: Any) -> JobSpec:
    """Two workers with 48 samples in micro-batches of 12."""
    return JobSpec.model_validate(
        {
            "name": "tiny",
            "recipe": {"target": "recipe.py:Tiny"},
            "train": {"steps": 8, "clip_grad_norm": clip},
            "batch": batch or {"global_size": 48, "micro_size": 12},
            "resources": {"workers": 2},
            "engine": {"name": "deepspeed", "config": config, **engine},
        }
    )


def resolve(spec: JobSpec, folder: Path) -> dict[str, Any]:
    """The resolved configuration of a spec that passes the checks and DeepSpeed's own."""
    assert [str(problem) for problem in deepspeed_problems(spec, folder)] == []
    resolved = resolve_deepspeed_config(spec, folder)
    DeepSpeedConfig(json.loads(json.dumps(resolved)))
    return resolved


@pytest.mark.parametrize("config", [None, {}, {"train_batch_size": None, "zero_optimization": {"stage": "auto"}}])
def test_what_the_engine_relies_on_is_always_said(config: Any, tmp_path: Path) -> None:
    assert resolve(job(config), tmp_path) == JOBS_OWN


def test_a_configuration_that_agrees_in_every_number(tmp_path: Path) -> None:
    numbers = {"train_batch_size": 48, "train_micro_batch_size_per_gpu": 12, "gradient_accumulation_steps": 2}
    spec = job({**numbers, "gradient_clipping": 0.5, "zero_optimization": {"stage": 1}}, clip=0.5, zero_stage=1)
    expected = JOBS_OWN | {"gradient_clipping": 0.5, "zero_optimization": {"stage": 1}}
    assert resolve(spec, tmp_path) == expected


def test_what_only_tunes_passes_through_and_auto_does_not(tmp_path: Path) -> None:
    resolved = resolve(job(FROM_A_TEAM, zero_stage=3, offload_optimizer="cpu"), tmp_path)
    assert resolved["zero_optimization"] == {
        "stage": 3,
        "overlap_comm": False,
        "contiguous_gradients": True,
        "sub_group_size": 1e9,
        "stage3_max_live_parameters": 1e9,
        "stage3_gather_16bit_weights_on_model_save": True,
        "offload_optimizer": {"device": "cpu", "pin_memory": True},
    }
    assert resolved["fp16"] == resolved["bf16"] == {"enabled": False}
    assert resolved["comms_logger"] == {"enabled": False, "prof_ops": ["all_reduce"]}
    assert resolved["flops_profiler"] == {"enabled": False, "module_depth": -1}
    assert resolved["steps_per_print"] == 2000
    assert '"auto"' not in json.dumps(resolved)


def test_details_of_an_offload_wait_for_the_engine_to_offload(tmp_path: Path) -> None:
    config = {"zero_optimization": {"offload_optimizer": {"pin_memory": False}}}
    assert "offload_optimizer" not in resolve(job(config), tmp_path)["zero_optimization"]
    offloaded = resolve(job(config, offload_optimizer="cpu"), tmp_path)
    assert offloaded["zero_optimization"]["offload_optimizer"] == {"device": "cpu", "pin_memory": False}


def test_a_file_says_the_same_as_a_mapping(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "ds.json").write_text(json.dumps(FROM_A_TEAM), encoding="utf-8")
    engine = {"zero_stage": 3, "offload_optimizer": "cpu"}
    from_file = resolve(job("configs/ds.json", **engine), tmp_path)
    assert from_file == resolve(job(FROM_A_TEAM, **engine), tmp_path)


@pytest.mark.parametrize(
    ("batch", "micro", "accepted"),
    [
        ({"global_size": 48}, 24, [24]),
        ({"global_size": 49}, 25, [25]),
        # 25 and 24 samples in three micro-batches each: the largest has 9, the spec allows 12.
        ({"global_size": 49, "micro_size": 12}, 9, [9, 12]),
    ],
)
def test_the_micro_batch_is_the_largest_of_a_worker(
    batch: dict[str, int], micro: int, accepted: list[int], tmp_path: Path
) -> None:
    assert resolve(job(None, batch=batch), tmp_path)["train_micro_batch_size_per_gpu"] == micro
    for size in range(1, 50):
        problems = [*deepspeed_problems(job({"train_micro_batch_size_per_gpu": size}, batch=batch), tmp_path)]
        assert (problems == []) == (size in accepted)


def test_an_uneven_batch_is_shown_as_it_is(tmp_path: Path) -> None:
    spec = job({"train_batch_size": 48}, batch={"global_size": 49, "micro_size": 12})
    (problem,) = deepspeed_problems(spec, tmp_path)
    arithmetic = "49 over 2 workers: up to 25 samples each in 3 micro-batches of up to 9"
    assert str(problem) == f'engine.config.train_batch_size = 48: the job has {arithmetic}. Legal: "auto", 49'


def test_everything_wrong_is_reported_together(tmp_path: Path) -> None:
    config = {
        "train_batch_size": 32,
        "gradient_cliping": 1.0,
        "optimizer": {"type": "AdamW"},
        "zero_optimization": {"stage": 1, "offload_param": {"pin": True}, "reduce_bucket_size": -1},
    }
    assert {problem.path.removeprefix("engine.config.") for problem in deepspeed_problems(job(config), tmp_path)} == {
        "train_batch_size",
        "gradient_cliping",
        "optimizer",
        "zero_optimization.stage",
        "zero_optimization.offload_param.pin",
        "zero_optimization.reduce_bucket_size",
    }
