"""Every key of DeepSpeed 0.19.8's configuration and what becomes of it: DeepSpeed itself ignores most misspelt ones.

``tests/spec/test_deepspeed_keys.py`` compares the table with the DeepSpeed that is installed.
"""

from __future__ import annotations

from orchestrator.spec.foreign_keys import (
    AMOUNT,
    COUNT,
    DECIDED,
    FLAG,
    POSITIVE_COUNT,
    TEXT,
    TEXTS,
    Keys,
    Refused,
    Value,
    one_of,
)

_PRECISION = "the engine computes train.precision by autocast around fp32 weights, as every engine does"
_BATCH = "the engine weights every micro-batch by its exact share and relies on the plain average over the workers"
_LAYOUT = "the engine divides the data among all workers and the model only by ZeRO"
_OTHER_STEP = "the update would no longer be that of the spec's optimizer"
_LOSSY = "what is communicated would be rounded to few bits, which changes the training"
_CHECKPOINT = "the orchestrator writes and reads checkpoints itself"
_REMOVED = "was removed from DeepSpeed"

_OFF = ({"enabled": False},)
_IN_SPEC = "leave it out; the spec has a section for it"

_PRECISION_SECTION = Refused(_PRECISION, (False,), "false, and train.precision in the spec")

OFFLOAD_OPTIMIZER: Keys = {
    "device": DECIDED,
    "nvme_path": TEXT,
    "buffer_count": COUNT,
    "pin_memory": FLAG,
    "pipeline_read": FLAG,
    "pipeline_write": FLAG,
    "fast_init": FLAG,
    "ratio": Refused("the part that is not offloaded would be updated by another optimizer", (1,), "1"),
    "super_offload": Refused(_OTHER_STEP, (False,), "false"),
    "cpuadam_cores_perc": Refused("belongs to super_offload, which is not available"),
}
OFFLOAD_PARAM: Keys = {
    "device": DECIDED,
    "nvme_path": TEXT,
    "buffer_count": COUNT,
    "buffer_size": COUNT,
    "max_in_cpu": COUNT,
    "pin_memory": FLAG,
}
ZERO: Keys = {
    "stage": DECIDED,
    "offload_optimizer": OFFLOAD_OPTIMIZER,
    "offload_param": OFFLOAD_PARAM,
    "contiguous_gradients": FLAG,
    "reduce_scatter": FLAG,
    "reduce_bucket_size": POSITIVE_COUNT,
    "use_multi_rank_bucket_allreduce": FLAG,
    "allgather_partitions": FLAG,
    "allgather_bucket_size": COUNT,
    "overlap_comm": FLAG,
    "compute_grad_norm": Refused("every step reports the norm of the gradient", (True,), "true"),
    "load_from_fp32_weights": FLAG,
    "elastic_checkpoint": Refused(_CHECKPOINT, (False,), "false"),
    "zenflow": Refused(_OTHER_STEP),
    "sub_group_size": COUNT,
    "cpu_offload": Refused("is deprecated in DeepSpeed", (False,), "engine.offload_optimizer: cpu"),
    "cpu_offload_param": Refused("is deprecated in DeepSpeed", (False,), "engine.offload_param: cpu"),
    "cpu_offload_use_pin_memory": Refused("is deprecated in DeepSpeed", (False,), "pin_memory of offload_optimizer"),
    "stage3_prefetch_bucket_size": COUNT,
    "prefetch_bucket_size": COUNT,
    "stage3_param_persistence_threshold": COUNT,
    "param_persistence_threshold": COUNT,
    "stage3_model_persistence_threshold": COUNT,
    "model_persistence_threshold": COUNT,
    "stage3_max_live_parameters": COUNT,
    "max_live_parameters": COUNT,
    "stage3_max_reuse_distance": COUNT,
    "max_reuse_distance": COUNT,
    "stage3_gather_16bit_weights_on_model_save": FLAG,
    "gather_16bit_weights_on_model_save": FLAG,
    "stage3_gather_fp16_weights_on_model_save": FLAG,
    "stage3_module_granularity_threshold": COUNT,
    "module_granularity_threshold": COUNT,
    "stage3_use_all_reduce_for_fetch_params": FLAG,
    "use_all_reduce_for_fetch_params": FLAG,
    "stage3_allgather_sequential": FLAG,
    "allgather_sequential": FLAG,
    "ignore_unused_parameters": FLAG,
    "legacy_stage1": Refused(_REMOVED, (False,), "false"),
    "round_robin_gradients": Refused(
        "DeepSpeed then loses track of where each weight lies, so that what is saved would be wrong", (False,), "false"
    ),
    "parameter_alignment": FLAG,
    "zero_hpz_partition_size": Refused("the weights are divided once, among all workers", (1,), "1"),
    "zero_quantized_weights": Refused(_LOSSY, (False,), "false"),
    "zero_quantized_nontrainable_weights": Refused(_LOSSY, (False,), "false"),
    "zero_quantized_gradients": Refused(_LOSSY, (False,), "false"),
    "memory_efficient_linear": FLAG,
    "pipeline_loading_checkpoint": Refused(_CHECKPOINT, (False,), "false"),
    "override_module_apply": FLAG,
    "log_trace_cache_warnings": FLAG,
    "enable_sanity_checks": FLAG,
    "save_muon_momentum_buffer_in_memory": Refused("belongs to DeepSpeed's Muon, which the spec cannot name", (False,)),
    "leaf_module": Refused("the engine has no backward pass through leaf modules"),
    "mics_shard_size": Refused(_REMOVED),
    "mics_hierarchical_params_gather": Refused(_REMOVED),
    "zeropp_loco_param": Refused(_REMOVED),
}

FP16: Keys = {
    "enabled": _PRECISION_SECTION,
    "auto_cast": FLAG,
    "loss_scale": Value(
        "a number >= 0", lambda value: COUNT.accepts(value) or (isinstance(value, float) and value >= 0)
    ),
    "initial_scale_power": COUNT,
    "loss_scale_window": COUNT,
    "hysteresis": COUNT,
    "consecutive_hysteresis": FLAG,
    "min_loss_scale": COUNT,
    "fp16_master_weights_and_grads": Refused(_PRECISION, (False,), "false"),
}
BF16: Keys = {
    "enabled": _PRECISION_SECTION,
    "immediate_grad_update": FLAG,
    "check_grad_overflow": FLAG,
    "bf16_master_weights_and_grads": Refused(_PRECISION, (False,), "false"),
    "bf16_optimizer_states": Refused(_PRECISION, (False,), "false"),
}

DEEPSPEED_KEYS: Keys = {
    # The batch, the step and the precision: what the job decides.
    "train_batch_size": DECIDED,
    "train_micro_batch_size_per_gpu": DECIDED,
    "gradient_accumulation_steps": DECIDED,
    "gradient_clipping": DECIDED,
    "zero_optimization": ZERO,
    "fp16": FP16,
    "bf16": BF16,
    "bfloat16": BF16,
    "torch_autocast": {"enabled": _PRECISION_SECTION, "dtype": TEXT, "lower_precision_safe_modules": TEXTS},
    "data_types": {
        "grad_accum_dtype": Refused(_PRECISION, ("fp32",), "fp32"),
        "param_dtype": Refused(_PRECISION, ("fp32",), "fp32"),
        "buffer_dtype": Refused(_PRECISION),
        "keep_in_fp32_modules": Refused(_PRECISION),
    },
    "optimizer": Refused("the spec's optimizer section says how weights are updated", (), _IN_SPEC),
    "scheduler": Refused("the spec's schedule section says how the learning rate moves", (), _IN_SPEC),
    "zero_allow_untested_optimizer": Refused("the optimizer is the spec's", (True,), "true"),
    "zero_force_ds_cpu_optimizer": Refused(_OTHER_STEP, (False,), "false"),
    "managed_gradient_accumulation": Refused(_BATCH, (True,), "true"),
    "prescale_gradients": Refused(_BATCH, (False,), "false"),
    "gradient_predivide_factor": Refused(_BATCH, (1,), "1.0"),
    "gradient_allreduce_op": Refused(_BATCH, ("mean",), "mean"),
    # Communication, memory and what is printed: what only tunes.
    "communication_data_type": one_of("fp32", "bf16"),
    "disable_allgather": Refused("DeepSpeed no longer reads it", (False,), "false"),
    "steps_per_print": POSITIVE_COUNT,
    "wall_clock_breakdown": FLAG,
    "memory_breakdown": FLAG,
    "dump_state": FLAG,
    "disable_python_gc": FLAG,
    "vocabulary_size": POSITIVE_COUNT,
    "log_level": one_of("debug", "info", "warning", "error", "critical"),
    "timers": {"throughput": {"enabled": FLAG, "synchronized": FLAG}},
    "comms_logger": {"enabled": FLAG, "verbose": FLAG, "prof_all": FLAG, "debug": FLAG, "prof_ops": TEXTS},
    "flops_profiler": {
        "enabled": FLAG,
        "recompute_fwd_factor": AMOUNT,
        "profile_step": POSITIVE_COUNT,
        "module_depth": Value("an integer >= -1", lambda value: value == -1 or COUNT.accepts(value)),
        "top_modules": POSITIVE_COUNT,
        "detailed": FLAG,
        "output_file": TEXT,
    },
    "aio": {
        "block_size": POSITIVE_COUNT,
        "queue_depth": POSITIVE_COUNT,
        "intra_op_parallelism": POSITIVE_COUNT,
        "single_submit": FLAG,
        "overlap_events": FLAG,
        "use_gds": FLAG,
    },
    "tensorboard": {"enabled": FLAG, "output_path": TEXT, "job_name": TEXT},
    "csv_monitor": {"enabled": FLAG, "output_path": TEXT, "job_name": TEXT},
    "wandb": {"enabled": FLAG, "group": TEXT, "team": TEXT, "project": TEXT},
    "comet": {
        "enabled": FLAG,
        "samples_log_interval": POSITIVE_COUNT,
        "project": TEXT,
        "workspace": TEXT,
        "api_key": Refused("a secret would be kept with the job", (), "env: {COMET_API_KEY: null} in the spec"),
        "experiment_name": TEXT,
        "experiment_key": TEXT,
        "online": FLAG,
        "mode": one_of("get", "create", "get_or_create"),
    },
    # What would change the batch, the data, the layout or the checkpoints.
    "data_efficiency": Refused("the spec's data section says which samples a step takes", _OFF),
    "dataloader_drop_last": Refused("the spec's data section says which samples a step takes", (False,), "false"),
    "autotuning": Refused("it would change the batch from run to run", _OFF),
    "pipeline": Refused(_LAYOUT),
    "tensor_parallel": Refused(_LAYOUT),
    "expert_parallel": Refused(_LAYOUT, _OFF),
    "use_data_before_expert_parallelism": Refused(_LAYOUT, (False,), "false"),
    "sequence_parallel_size": Refused(_LAYOUT, (1,), "1"),
    "data_parallel_size": Refused(_LAYOUT),
    "seq_parallel_communication_data_type": Refused(_LAYOUT),
    "hybrid_engine": Refused("it switches between training and generation", _OFF),
    "weight_quantization": Refused("it is for inference"),
    "activation_checkpointing": Refused(
        "only models that call deepspeed.checkpointing heed it", (), "train.activation_checkpointing in the spec"
    ),
    "compile": Refused("DeepCompile replaces the engine's own steps", ({"deepcompile": False},), "train.compile"),
    "checkpoint": Refused(_CHECKPOINT, (), _IN_SPEC),
    "datastates_ckpt": Refused(_CHECKPOINT, (False,), _IN_SPEC),
    "elasticity": Refused(f"{_REMOVED}; the batch of the spec stays exact for any number of workers"),
    **dict.fromkeys(
        (
            "nebula",
            "compression_training",
            "amp",
            "quantize_training",
            "sparse_gradients",
            "eigenvalue",
            "sparse_attention",
            "graph_harvesting",
            "curriculum_learning",
            "progressive_layer_drop",
        ),
        Refused(_REMOVED),
    ),
}
