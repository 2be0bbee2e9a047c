"""Every key of a file that `accelerate config` of Accelerate 1.15 writes, and what becomes of it.

``tests/spec/test_accelerate_keys.py`` compares the table with the Accelerate that is installed.
"""

from __future__ import annotations

from orchestrator.spec.foreign_keys import COUNT, DECIDED, FLAG, TEXT, Decided, Keys, Refused, Value, one_of

_FSDP1 = "belongs to FSDP 1; `accelerate to-fsdp2` converts a configuration"
_RECOMPUTED = Refused(
    "the spec says what is computed again", (False,), "false, and train.activation_checkpointing in the spec"
)
_NOT_HERE = "no worker of the job has such hardware"
_LAYOUT = "the engine divides the data among all workers and the model only by FSDP2 or ZeRO"

BY_RAY = Value("anything", lambda value: True)
"""What Ray decides when it places the workers, whatever the file of another cluster says."""

FSDP: Keys = {
    "fsdp_version": Decided("2"),
    "fsdp_reshard_after_forward": FLAG,
    "fsdp_offload_params": FLAG,
    "fsdp_auto_wrap_policy": one_of("TRANSFORMER_BASED_WRAP", "SIZE_BASED_WRAP", "NO_WRAP"),
    "fsdp_transformer_layer_cls_to_wrap": TEXT,
    "fsdp_min_num_params": COUNT,
    "fsdp_state_dict_type": one_of("SHARDED_STATE_DICT", "FULL_STATE_DICT"),
    "fsdp_cpu_ram_efficient_loading": FLAG,
    "fsdp_activation_checkpointing": _RECOMPUTED,
    "fsdp_activation_checkpointing_offload": _RECOMPUTED,
    "fsdp_ignored_modules": Refused("the gradients of ignored modules would not be summed over the workers"),
    "fsdp_sharding_strategy": Refused(_FSDP1),
    "fsdp_backward_prefetch": Refused(_FSDP1),
    "fsdp_forward_prefetch": Refused(_FSDP1),
    "fsdp_use_orig_params": Refused(_FSDP1),
    "fsdp_sync_module_states": Refused(_FSDP1),
}
"""Keys of ``fsdp_config``."""

DEEPSPEED: Keys = {
    "deepspeed_config_file": TEXT,
    "zero_stage": Decided("0, 1, 2, 3"),
    "offload_optimizer_device": Decided("none, cpu with stage 1 or more"),
    "offload_param_device": Decided("none, cpu with stage 3"),
    "offload_optimizer_nvme_path": Refused("only host memory is offloaded to", ("none",), "none"),
    "offload_param_nvme_path": Refused("only host memory is offloaded to", ("none",), "none"),
    "gradient_accumulation_steps": Decided("1, or what the job says"),
    "gradient_clipping": DECIDED,
    "zero3_init_flag": Refused("the recipe builds its model before the engine divides it", (False,), "false"),
    "zero3_save_16bit_model": FLAG,
    "deepspeed_moe_layer_cls_names": Refused("the engine has no backward pass through leaf modules"),
    "deepspeed_hostfile": BY_RAY,
    "deepspeed_multinode_launcher": BY_RAY,
    "deepspeed_inclusion_filter": BY_RAY,
    "deepspeed_exclusion_filter": BY_RAY,
}
"""Keys of ``deepspeed_config``."""

ACCELERATE_KEYS: Keys = {
    "compute_environment": one_of("LOCAL_MACHINE"),
    "distributed_type": Decided("FSDP, DEEPSPEED; required"),
    "fsdp_config": FSDP,
    "deepspeed_config": DEEPSPEED,
    "mixed_precision": DECIDED,
    "num_processes": DECIDED,
    "use_cpu": DECIDED,
    **dict.fromkeys(
        (
            "num_machines",
            "machine_rank",
            "gpu_ids",
            "main_process_ip",
            "main_process_port",
            "rdzv_backend",
            "same_network",
            "main_training_function",
        ),
        BY_RAY,
    ),
    "debug": Refused("its extra messages between the workers are not available here", (False,), "false"),
    "enable_cpu_affinity": Refused("resources.cpus_per_worker says what a worker gets", (False,), "false"),
    "fp16": Refused("is an old name", (False,), "mixed_precision"),
    "fp8_config": Refused("train.precision has no fp8", ({},)),
    "dynamo_backend": Refused("the spec says how the model is compiled", ("NO", "no"), "train.compile in the spec"),
    "dynamo_config": Refused(
        "the spec says how the model is compiled",
        ({}, {"dynamo_backend": "NO"}, {"dynamo_backend": "no"}),
        "train.compile in the spec",
    ),
    "parallelism_config": Refused(_LAYOUT, ({},)),
    "megatron_lm_config": Refused(_LAYOUT, ({},)),
    "mpirun_config": Refused("Ray starts the workers", ({},)),
    "downcast_bf16": Refused(_NOT_HERE, (False, "no"), "no"),
    "tpu_use_cluster": Refused(_NOT_HERE, (False,)),
    "tpu_use_sudo": Refused(_NOT_HERE, (False,)),
    **dict.fromkeys(("tpu_name", "tpu_zone", "command_file"), Refused(_NOT_HERE)),
    **dict.fromkeys(("commands", "tpu_vm", "tpu_env"), Refused(_NOT_HERE, ([],))),
}
