"""Configurations of other libraries that contradict the job, or that those libraries would silently ignore."""

from __future__ import annotations

import json
from typing import Any

from spec.bad_spec import BadSpec

JOB = (
    "recipe: {target: recipe.py:Tiny}\n"
    "train: {steps: 8%s}\n"
    "batch: {global_size: 48, micro_size: 12}\n"
    "resources: {workers: 2}\n"
)
ARITHMETIC = "the job has 48 = 2 workers x 12 samples x 2 micro-batches"


def bad_engine(id: str, engine: dict[str, Any], path: str, message: str, train: str = "") -> BadSpec:
    """A job of 48 samples on 2 workers with this engine; the path is one below ``engine.config``."""
    return BadSpec(id, JOB % train + f"engine: {json.dumps(engine)}\n", f"engine.config.{path}", message)


def deepspeed(id: str, config: dict[str, Any], path: str, message: str, train: str = "", **engine: Any) -> BadSpec:
    """DeepSpeed with this configuration."""
    return bad_engine(id, {"name": "deepspeed", "config": config, **engine}, path, message, train)


def deepspeed_file(id: str, text: str | bytes, path: str, message: str) -> BadSpec:
    """DeepSpeed with this text as ``ds.json``; the path is the whole one."""
    engine = "engine: {name: deepspeed, config: ds.json}\n"
    return BadSpec(id, JOB % "" + engine, path, message, files={"ds.json": text})


def accelerate(id: str, config: dict[str, Any], path: str, message: str, train: str = "") -> BadSpec:
    """Accelerate with FSDP, changed by this configuration."""
    return bad_engine(
        id, {"name": "accelerate", "config": {"distributed_type": "FSDP", **config}}, path, message, train
    )


def accelerate_zero(id: str, section: dict[str, Any], path: str, message: str) -> BadSpec:
    """Accelerate with DeepSpeed and this ``deepspeed_config``."""
    config = {"distributed_type": "DEEPSPEED", "deepspeed_config": section}
    return accelerate(id, config, f"deepspeed_config.{path}", message)


def accelerate_file(id: str, text: str, path: str, message: str, **files: str) -> BadSpec:
    """Accelerate with this text as ``acc.yaml``; the path is the whole one."""
    engine = "engine: {name: accelerate, config: acc.yaml}\n"
    return BadSpec(id, JOB % "" + engine, path, message, files={"acc.yaml": text, **files})


DEEPSPEED = [
    deepspeed(
        "DeepSpeed's batch", {"train_batch_size": 32}, "train_batch_size", f'= 32: {ARITHMETIC}. Legal: "auto", 48'
    ),
    deepspeed("DeepSpeed's batch as a string", {"train_batch_size": "48"}, "train_batch_size", '= "48"'),
    deepspeed(
        "DeepSpeed's micro-batch",
        {"train_micro_batch_size_per_gpu": 24},
        "train_micro_batch_size_per_gpu",
        f'= 24: {ARITHMETIC}. Legal: "auto", 12',
    ),
    deepspeed(
        "DeepSpeed's accumulation",
        {"gradient_accumulation_steps": True},
        "gradient_accumulation_steps",
        f'= true: {ARITHMETIC}. Legal: "auto", 2',
    ),
    deepspeed(
        "DeepSpeed's clipping",
        {"gradient_clipping": 1.0},
        "gradient_clipping",
        '= 1.0: train.clip_grad_norm is null. Legal: "auto", 0',
    ),
    deepspeed(
        "DeepSpeed's other clipping",
        {"gradient_clipping": 0},
        "gradient_clipping",
        'train.clip_grad_norm is 0.5. Legal: "auto", 0.5',
        ", clip_grad_norm: 0.5",
    ),
    deepspeed(
        "DeepSpeed's stage",
        {"zero_optimization": {"stage": 3}},
        "zero_optimization.stage",
        '= 3: engine.zero_stage is 1. Legal: "auto", 1',
        zero_stage=1,
    ),
    deepspeed(
        "DeepSpeed's offload",
        {"zero_optimization": {"offload_optimizer": {"device": "nvme"}}},
        "zero_optimization.offload_optimizer.device",
        'engine.offload_optimizer is "cpu"',
        offload_optimizer="cpu",
    ),
    deepspeed(
        "offload to disk",
        {"zero_optimization": {"offload_param": {"device": "nvme", "nvme_path": "/disk"}}},
        "zero_optimization.offload_param.device",
        "engine.offload_param is null",
    ),
    deepspeed("DeepSpeed's optimizer", {"optimizer": {"type": "AdamW"}}, "optimizer", "the spec's optimizer section"),
    deepspeed("DeepSpeed's scheduler", {"scheduler": {"type": "WarmupLR"}}, "scheduler", "the spec's schedule section"),
    deepspeed("DeepSpeed's bf16", {"bf16": {"enabled": True}}, "bf16.enabled", "Legal: false, and train.precision"),
    deepspeed(
        "DeepSpeed's loss scale",
        {"fp16": {"enabled": "auto", "loss_scale": 128}},
        "fp16.loss_scale",
        "the engine computes fp16 itself, so it would not be heeded",
        ", precision: fp16",
    ),
    deepspeed(
        "refused twice",
        {"fp16": {"fp16_master_weights_and_grads": True}},
        "fp16.fp16_master_weights_and_grads",
        "train.precision by autocast",
        ", precision: fp16",
    ),
    deepspeed(
        "DeepSpeed's autocast", {"torch_autocast": {"enabled": True}}, "torch_autocast.enabled", "train.precision"
    ),
    deepspeed(
        "unknown key of DeepSpeed",
        {"gradient_cliping": 0},
        "gradient_cliping",
        "job.yaml:5: engine.config.gradient_cliping = 0: unknown key",
    ),
    deepspeed("nearest key of DeepSpeed", {"zero_optimisation": {}}, "zero_optimisation", "mean 'zero_optimization'?"),
    deepspeed(
        "unknown key of ZeRO",
        {"zero_optimization": {"overlap_com": True}},
        "zero_optimization.overlap_com",
        "unknown key. Legal: stage, offload_optimizer",
    ),
    deepspeed(
        "unknown key of an offload",
        {"zero_optimization": {"offload_param": {"pin": True}}},
        "zero_optimization.offload_param.pin",
        "unknown key. Legal: device, nvme_path, buffer_count, buffer_size, max_in_cpu, pin_memory",
    ),
    deepspeed(
        "unknown key of a timer",
        {"timers": {"throughput": {"enable": True}}},
        "timers.throughput.enable",
        "Legal: enabled, synchronized. Did you mean 'enabled'?",
    ),
    deepspeed("removed key of DeepSpeed", {"elasticity": {"enabled": True}}, "elasticity", "removed from DeepSpeed"),
    deepspeed(
        "removed key of ZeRO",
        {"zero_optimization": {"mics_shard_size": 2}},
        "zero_optimization.mics_shard_size",
        "removed from DeepSpeed",
    ),
    deepspeed(
        "lossy communication",
        {"zero_optimization": {"zero_quantized_gradients": True}},
        "zero_optimization.zero_quantized_gradients",
        "rounded to few bits",
    ),
    deepspeed(
        "lost weights",
        {"zero_optimization": {"round_robin_gradients": True}},
        "zero_optimization.round_robin_gradients",
        "DeepSpeed then loses track of where each weight lies",
    ),
    deepspeed("tensor parallel", {"tensor_parallel": {"autotp_size": 2}}, "tensor_parallel", "among all workers"),
    deepspeed("DeepSpeed's checkpoints", {"checkpoint": {"load_universal": True}}, "checkpoint", "checkpoints itself"),
    deepspeed("autotuning", {"autotuning": {"enabled": True}}, "autotuning", "change the batch"),
    deepspeed("off, but with more", {"autotuning": {"enabled": False, "fast": True}}, "autotuning", "change the batch"),
    deepspeed(
        "word for a size",
        {"zero_optimization": {"reduce_bucket_size": "5e8"}},
        "zero_optimization.reduce_bucket_size",
        'Legal: an integer >= 1, or "auto"',
    ),
    deepspeed("one for a switch", {"wall_clock_breakdown": 1}, "wall_clock_breakdown", "Legal: true or false"),
    deepspeed("switch for a section", {"zero_optimization": True}, "zero_optimization", "is not a mapping"),
    deepspeed("secret", {"comet": {"api_key": "x"}}, "comet.api_key", "env: {COMET_API_KEY: null}"),
    deepspeed("never printed", {"steps_per_print": 0}, "steps_per_print", "Legal: an integer >= 1"),
    deepspeed_file(
        "line of a file",
        '{\n\t"zero_optimization": {\n\t\t"stage": 3\n\t}\n}',
        "engine.config.zero_optimization.stage",
        "ds.json:3: engine.config.zero_optimization.stage = 3: engine.zero_stage is 2",
    ),
    deepspeed_file("no JSON", "{'a': 1}", "engine.config", "ds.json: engine.config: is not valid JSON: line 1"),
    deepspeed_file("duplicate key of JSON", '{"a": {"b": 1,\n"b": 1}}', "engine.config", 'has the key "b" twice'),
    deepspeed_file("no number of JSON", '{"gradient_clipping": NaN}', "engine.config", "has NaN"),
    deepspeed_file("number without end", '{"steps_per_print": 1e999}', "engine.config.steps_per_print", "not legal"),
    deepspeed_file("no object", "[1]", "engine.config", "ds.json:1: engine.config: is not a mapping"),
    deepspeed_file("bottomless file", "[" * 100_000, "engine.config", "is nested too deep"),
    deepspeed_file("bytes", b"\xff", "engine.config", "is not UTF-8"),
    BadSpec(
        "no such configuration",
        JOB % "" + "engine: {name: deepspeed, config: ds.json}\n",
        "engine.config",
        'job.yaml:5: engine.config = "ds.json": no such file',
    ),
    BadSpec(
        "configuration outside",
        JOB % "" + "engine: {name: deepspeed, config: ../ds.json}\n",
        "engine.config",
        "is outside the spec's folder",
    ),
    BadSpec(
        "list for a configuration", JOB % "" + "engine: {name: deepspeed, config: [1]}\n", "engine.config", "a list"
    ),
]

ACCELERATE = [
    accelerate("no type", {"distributed_type": None}, "distributed_type", "missing. Legal: FSDP, DEEPSPEED"),
    accelerate("replicas", {"distributed_type": "MULTI_GPU"}, "distributed_type", "Legal: engine: ddp, or"),
    accelerate("Megatron", {"distributed_type": "MEGATRON_LM"}, "distributed_type", "no engine divides a model as"),
    accelerate("unknown type", {"distributed_type": "FSDP2"}, "distributed_type", "Did you mean 'FSDP'?"),
    accelerate(
        "Accelerate's processes",
        {"num_processes": 8},
        "num_processes",
        '= 8: resources.workers is 2. Legal: "auto", 2',
    ),
    accelerate(
        "Accelerate's precision", {"mixed_precision": "bf16"}, "mixed_precision", '"bf16": train.precision is fp32'
    ),
    accelerate(
        "Accelerate's other precision",
        {"mixed_precision": "no"},
        "mixed_precision",
        '"no": train.precision is bf16',
        ", precision: bf16",
    ),
    accelerate("FSDP 1", {"fsdp_config": {"fsdp_version": 1}}, "fsdp_config.fsdp_version", "FSDP 2 is what divides"),
    accelerate(
        "key of FSDP 1",
        {"fsdp_config": {"fsdp_sharding_strategy": "FULL_SHARD"}},
        "fsdp_config.fsdp_sharding_strategy",
        "`accelerate to-fsdp2`",
    ),
    accelerate(
        "unknown key of FSDP",
        {"fsdp_config": {"fsdp_offload_parms": True}},
        "fsdp_config.fsdp_offload_parms",
        "Did you mean 'fsdp_offload_params'?",
    ),
    accelerate(
        "Accelerate recomputes",
        {"fsdp_config": {"fsdp_activation_checkpointing": True}},
        "fsdp_config.fsdp_activation_checkpointing",
        "train.activation_checkpointing",
    ),
    accelerate(
        "Accelerate compiles", {"dynamo_config": {"dynamo_backend": "INDUCTOR"}}, "dynamo_config", "train.compile"
    ),
    accelerate("unknown key of Accelerate", {"mixed_precison": "no"}, "mixed_precison", "mean 'mixed_precision'?"),
    accelerate("eight bits", {"fp8_config": {"backend": "TORCHAO"}}, "fp8_config", "train.precision has no fp8"),
    accelerate("other section", {"deepspeed_config": {"zero_stage": 2}}, "deepspeed_config", "distributed_type FSDP"),
    accelerate("SageMaker", {"compute_environment": "AMAZON_SAGEMAKER"}, "compute_environment", "LOCAL_MACHINE"),
    accelerate_zero(
        "Accelerate's accumulation",
        {"gradient_accumulation_steps": 4},
        "gradient_accumulation_steps",
        f'= 4: {ARITHMETIC}. Legal: "auto", 2, 1',
    ),
    accelerate_zero("Accelerate's clipping", {"gradient_clipping": 1.0}, "gradient_clipping", "clip_grad_norm is null"),
    accelerate_zero("no such stage", {"zero_stage": 4}, "zero_stage", 'Legal: "auto", 0, 1, 2, 3'),
    accelerate_zero(
        "nothing to offload", {"offload_param_device": "cpu"}, "offload_param_device", "ZeRO stage 2 does not divide"
    ),
    accelerate_zero(
        "Accelerate's disk",
        {"zero_stage": 3, "offload_optimizer_device": "nvme"},
        "offload_optimizer_device",
        "only host memory",
    ),
    accelerate_zero("zero.Init", {"zero3_init_flag": True}, "zero3_init_flag", "the recipe builds its model before"),
    accelerate_zero(
        "no file for DeepSpeed",
        {"deepspeed_config_file": "ds.json"},
        "deepspeed_config_file",
        "no such file",
    ),
    accelerate_file(
        "file of a file",
        "distributed_type: DEEPSPEED\ndeepspeed_config: {deepspeed_config_file: ds.json}\n",
        "engine.config.deepspeed_config.deepspeed_config_file.zero_optimization.stage",
        "ds.json:2: engine.config.deepspeed_config.deepspeed_config_file.zero_optimization.stage = 5",
        **{"ds.json": '{"zero_optimization":\n{"stage": 5}}'},
    ),
    accelerate_file(
        "said beside the file",
        "distributed_type: DEEPSPEED\ndeepspeed_config:\n  deepspeed_config_file: ds.json\n  zero_stage: 2\n",
        "engine.config.deepspeed_config.zero_stage",
        "acc.yaml:4: engine.config.deepspeed_config.zero_stage = 2: deepspeed_config_file is where this is said",
        **{"ds.json": "{}"},
    ),
    accelerate_file("no YAML", "a: [", "", "acc.yaml:1: is not valid YAML"),
    accelerate_file("Accelerate's duplicate", "debug: false\ndebug: false\n", "debug", "acc.yaml:2: debug: duplicate"),
    accelerate_file("empty file of Accelerate", "", "engine.config", "acc.yaml:1: engine.config: is not a mapping"),
    BadSpec("no configuration", JOB % "" + "engine: {name: accelerate}\n", "engine.config", "missing"),
]

ENGINES = [
    BadSpec(
        "offload of nothing",
        JOB % "" + "engine: {name: deepspeed, offload_param: cpu}\n",
        "engine.offload_param",
        "does not divide",
    ),
    BadSpec(
        "uneven mesh",
        JOB % "" + "engine: {name: fsdp2, mesh: {replicate: 3}}\n",
        "engine.mesh.replicate",
        "Legal: a divisor of 2: 1, 2",
    ),
    BadSpec(
        "mesh of others",
        JOB % "" + "engine: {name: fsdp2, mesh: {shard: 4}}\n",
        "engine.mesh.shard",
        "1 replica groups x 4 workers = 4, but the job has 2",
    ),
    BadSpec(
        "two policies",
        JOB % "" + "engine: {name: fsdp2, wrap_modules: [Block], wrap_min_parameters: 9}\n",
        "engine",
        "at most one of",
    ),
    BadSpec(
        "messages of others",
        JOB % "" + "engine: fsdp2\nexchange: {bucket_mib: 1}\n",
        "exchange.bucket_mib",
        "sums gradients in messages of its own",
    ),
]
