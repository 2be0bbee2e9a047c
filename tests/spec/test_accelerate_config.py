"""What Accelerate is set up with; tests/spec/bad_engines.py has what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from accelerate import DeepSpeedPlugin, FullyShardedDataParallelPlugin

from orchestrator.spec.accelerate_config import ResolvedAccelerate, resolve_accelerate_config
from orchestrator.spec.check_accelerate import accelerate_problems
from orchestrator.spec.job import JobSpec

CLUSTER = """\
compute_environment: LOCAL_MACHINE
debug: false
downcast_bf16: 'no'
enable_cpu_affinity: false
gpu_ids: all
machine_rank: 0
main_process_ip: 10.0.0.1
main_process_port: 29500
main_training_function: main
mixed_precision: bf16
num_machines: 2
num_processes: 2
rdzv_backend: static
same_network: true
tpu_env: []
tpu_use_cluster: false
tpu_use_sudo: false
use_cpu: false
"""
FSDP_FILE = f"""\
{CLUSTER}
distributed_type: FSDP
fsdp_config:
  fsdp_activation_checkpointing: false
  fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP
  fsdp_cpu_ram_efficient_loading: true
  fsdp_offload_params: false
  fsdp_reshard_after_forward: false
  fsdp_state_dict_type: SHARDED_STATE_DICT
  fsdp_transformer_layer_cls_to_wrap: Block, Head
  fsdp_version: 2
"""
ZERO_FILE = f"""\
{CLUSTER}
distributed_type: DEEPSPEED
deepspeed_config:
  deepspeed_hostfile: /job/hostfile
  deepspeed_multinode_launcher: pdsh
  gradient_accumulation_steps: 1
  gradient_clipping: 0.5
  offload_optimizer_device: cpu
  offload_param_device: none
  zero3_init_flag: false
  zero3_save_16bit_model: true
  zero_stage: 3
"""


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accelerate's plugins leave their settings in the environment."""
    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "False")


def resolve(config: Any, folder: Path) -> ResolvedAccelerate:
    """The set-up of a job of 48 samples on 2 workers in bf16, clipped at 0.5, which passes the checks."""
    if isinstance(config, str):
        (folder / "acc.yaml").write_text(config, encoding="utf-8")
        config = "acc.yaml"
    spec = JobSpec.model_validate(
        {
            "name": "tiny",
            "recipe": {"target": "recipe.py:Tiny"},
            "train": {"steps": 8, "precision": "bf16", "clip_grad_norm": 0.5},
            "batch": {"global_size": 48, "micro_size": 12},
            "resources": {"workers": 2},
            "engine": {"name": "accelerate", "config": config},
        }
    )
    assert [str(problem) for problem in accelerate_problems(spec, folder)] == []
    return resolve_accelerate_config(spec, folder)


def test_fsdp_alone_is_fsdp2_with_accelerates_defaults(tmp_path: Path) -> None:
    resolved = resolve({"distributed_type": "FSDP"}, tmp_path)
    expected = ResolvedAccelerate("fsdp2", {"fsdp_version": 2, "cpu_ram_efficient_loading": False}, None)
    assert resolved == expected
    assert FullyShardedDataParallelPlugin(**resolved.plugin_arguments).reshard_after_forward is True


def test_a_file_of_fsdp2(tmp_path: Path) -> None:
    resolved = resolve(FSDP_FILE, tmp_path)
    assert resolved.plugin_arguments == {
        "fsdp_version": 2,
        "cpu_ram_efficient_loading": False,
        "reshard_after_forward": False,
        "cpu_offload": False,
        "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "state_dict_type": "SHARDED_STATE_DICT",
        "transformer_cls_names_to_wrap": ["Block", "Head"],
    }
    plugin = FullyShardedDataParallelPlugin(**resolved.plugin_arguments)
    assert plugin.transformer_cls_names_to_wrap == ["Block", "Head"]


def test_modules_by_their_size(tmp_path: Path) -> None:
    section = {"fsdp_auto_wrap_policy": "SIZE_BASED_WRAP", "fsdp_min_num_params": 1000, "fsdp_offload_params": True}
    resolved = resolve({"distributed_type": "FSDP", "fsdp_config": section}, tmp_path)
    assert FullyShardedDataParallelPlugin(**resolved.plugin_arguments).min_num_params == 1000
    assert resolved.plugin_arguments["cpu_offload"] is True


def test_a_file_of_deepspeed(tmp_path: Path) -> None:
    resolved = resolve(ZERO_FILE, tmp_path)
    assert resolved.kind == "deepspeed"
    assert resolved.deepspeed_config is not None
    assert resolved.deepspeed_config["zero_optimization"] == {
        "stage": 3,
        "offload_optimizer": {"device": "cpu"},
        "stage3_gather_16bit_weights_on_model_save": True,
    }
    assert resolved.deepspeed_config["gradient_clipping"] == 0.5
    assert resolved.deepspeed_config["train_micro_batch_size_per_gpu"] == 12
    plugin = DeepSpeedPlugin(hf_ds_config=resolved.deepspeed_config, **resolved.plugin_arguments)
    assert (plugin.zero_stage, plugin.zero3_init_flag) == (3, False)
    assert plugin.deepspeed_config["gradient_accumulation_steps"] == 1


def test_deepspeed_alone_is_accelerates_stage(tmp_path: Path) -> None:
    resolved = resolve({"distributed_type": "DEEPSPEED"}, tmp_path)
    assert resolved.deepspeed_config is not None
    assert resolved.deepspeed_config["zero_optimization"] == {"stage": 2}
    assert resolved.plugin_arguments == {"zero3_init_flag": False}


def test_a_file_of_deepspeeds_own(tmp_path: Path) -> None:
    own = {"train_batch_size": "auto", "zero_optimization": {"stage": 1, "offload_optimizer": {"device": "cpu"}}}
    (tmp_path / "ds.json").write_text(json.dumps(own), encoding="utf-8")
    section = {"deepspeed_config_file": "ds.json"}
    resolved = resolve({"distributed_type": "DEEPSPEED", "deepspeed_config": section}, tmp_path)
    assert resolved.deepspeed_config is not None
    assert resolved.deepspeed_config["zero_optimization"] == {"stage": 1, "offload_optimizer": {"device": "cpu"}}
