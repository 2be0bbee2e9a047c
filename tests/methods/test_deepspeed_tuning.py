"""What passes through to DeepSpeed only tunes it: with every setting away from its default the training is the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gloo import run_on_ranks
from support import assert_same_weights, make_run_directory, tiny_spec, train_here

from orchestrator.spec.check import check
from orchestrator.spec.deepspeed_keys import ZERO
from orchestrator.spec.foreign_keys import Value

TUNED_ZERO: dict[str, Any] = {
    "contiguous_gradients": False,
    "reduce_scatter": False,
    "reduce_bucket_size": 500,
    "use_multi_rank_bucket_allreduce": False,
    "allgather_partitions": False,
    "allgather_bucket_size": 500,
    "overlap_comm": True,
    "load_from_fp32_weights": False,
    "sub_group_size": 100,
    "stage3_prefetch_bucket_size": 100,
    "stage3_param_persistence_threshold": 10,
    "stage3_model_persistence_threshold": 100,
    "stage3_max_live_parameters": 100,
    "stage3_max_reuse_distance": 100,
    "stage3_gather_16bit_weights_on_model_save": True,
    "stage3_module_granularity_threshold": 100,
    "stage3_use_all_reduce_for_fetch_params": True,
    "stage3_allgather_sequential": True,
    "ignore_unused_parameters": False,
    "parameter_alignment": True,
    "memory_efficient_linear": False,
    "override_module_apply": False,
    "log_trace_cache_warnings": True,
    "enable_sanity_checks": True,
}
SECOND_NAMES = {key.removeprefix("stage3_") for key in TUNED_ZERO if key.startswith("stage3_")}
TUNED = {
    "zero_optimization": TUNED_ZERO,
    "communication_data_type": "fp32",
    "wall_clock_breakdown": True,
    "steps_per_print": 1,
    "disable_python_gc": True,
    "comms_logger": {"enabled": True},
    "flops_profiler": {"enabled": True},
    "timers": {"throughput": {"synchronized": False}},
}


def train_all(roots: list[str]) -> None:
    """Train one job after the other on this rank."""
    for root in roots:
        train_here(root)


def test_every_setting_of_zero_that_passes_through_is_tried() -> None:
    passing = {key for key, entry in ZERO.items() if isinstance(entry, Value)}
    assert passing - SECOND_NAMES - {"stage3_gather_fp16_weights_on_model_save"} == set(TUNED_ZERO)


def test_tuning_does_not_change_the_training(tmp_path: Path) -> None:
    sections: dict[str, Any] = {"train": {"steps": 3}, "resources": {"workers": 2}}
    plain = make_run_directory(tmp_path / "ddp", tiny_spec(**sections))
    tuned = []
    for stage in range(4):
        engine = {"name": "deepspeed", "zero_stage": stage, "config": TUNED}
        spec = tiny_spec(**sections, engine=engine)
        tuned.append(make_run_directory(tmp_path / f"stage_{stage}", spec))
        assert check(spec, tuned[-1].code) == []
    run_on_ranks(2, train_all, [str(directory.root) for directory in (plain, *tuned)])
    for directory in tuned:
        assert_same_weights(plain, directory, atol=1e-5)
