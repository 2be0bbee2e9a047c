"""Checks of a configuration of Accelerate: keys that it does not know, and values that contradict the job."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from orchestrator.spec.accelerate_config import (
    DEFAULT_ZERO_STAGE,
    FIELD,
    read_accelerate_config,
    read_deepspeed_file,
    zero_of,
)
from orchestrator.spec.accelerate_keys import ACCELERATE_KEYS
from orchestrator.spec.batch_arithmetic import divide_step
from orchestrator.spec.check_deepspeed import LEAST_STAGE, batch_arithmetic, clipping_rule, config_problems
from orchestrator.spec.foreign_keys import Rule, is_left_to_the_job, key_problems, rule_problems, value_at
from orchestrator.spec.job import JobSpec
from orchestrator.spec.methods.engines import Accelerate
from orchestrator.spec.problems import Problem, SpecError, nearest, shown

_TYPES = {"FSDP": "fsdp_config", "DEEPSPEED": "deepspeed_config"}
"""Legal kinds of distribution with the section that belongs to each."""
_REPLICAS = ("the engine ddp replicates a model", "engine: ddp, or distributed_type FSDP or DEEPSPEED")
_OTHER_TYPES = {
    **dict.fromkeys(("NO", "MULTI_CPU", "MULTI_GPU"), _REPLICAS),
    "MEGATRON_LM": ("no engine divides a model as Megatron-LM does", ", ".join(_TYPES)),
    **dict.fromkeys(("XLA", "TPU"), ("no worker of the job has a TPU", ", ".join(_TYPES))),
}
_PRECISIONS = {"fp32": ("no", "fp32", False), "bf16": ("bf16",), "fp16": ("fp16",)}
"""How Accelerate writes train.precision; ``no`` is a boolean for readers of YAML 1.1."""
_ZERO_FIELDS = {
    "stage": "zero_stage",
    "offload_optimizer.device": "offload_optimizer_device",
    "offload_param.device": "offload_param_device",
}
"""DeepSpeed's names below zero_optimization, and Accelerate's below deepspeed_config."""
_SAID_BY_THE_FILE = (
    *_ZERO_FIELDS.values(),
    "gradient_accumulation_steps",
    "gradient_clipping",
    "zero3_save_16bit_model",
)


def accelerate_problems(spec: JobSpec, folder: Path) -> Iterator[Problem]:
    """Accelerate's configuration has only keys that Accelerate knows, and contradicts the job nowhere."""
    if not isinstance(spec.engine, Accelerate):
        return
    try:
        source = read_accelerate_config(spec.engine, folder)
    except SpecError as error:
        yield from error.problems
        return
    values = source.values
    section = value_at(values, "deepspeed_config")
    rules = [*_job_rules(spec), Rule("fsdp_config.fsdp_version", (2,), "FSDP 2 is what divides models here")]
    rules += [Rule(f"deepspeed_config.{rule.path}", rule.legal, rule.message) for rule in _section_rules(section, spec)]
    yield from map(source.place, _type_problems(values))
    yield from map(source.place, key_problems(values, ACCELERATE_KEYS, FIELD))
    yield from map(source.place, rule_problems(values, rules, FIELD))
    try:
        file = read_deepspeed_file(section, folder)
    except SpecError as error:
        yield from map(source.place, error.problems)
        return
    if file is not None:
        yield from config_problems(file, spec, _file_rules(file.values))


def _type_problems(values: Mapping[str, Any]) -> Iterator[Problem]:
    kind = values.get("distributed_type")
    path = f"{FIELD}.distributed_type"
    legal = ", ".join(_TYPES)
    if is_left_to_the_job(kind):
        yield Problem("", path, "", "missing", legal)
    elif str(kind) not in _TYPES:
        message, legal = _OTHER_TYPES.get(str(kind), ("not one of the legal values", legal))
        yield Problem("", path, shown(kind), message, legal, nearest(str(kind), _TYPES))
    for name, section in _TYPES.items():
        value = values.get(section)
        if kind in _TYPES and kind != name and value and not is_left_to_the_job(value):
            message = f"would not be heeded with distributed_type {kind}"
            yield Problem("", f"{FIELD}.{section}", shown(value), message, f"leave it out, or distributed_type {name}")


def _job_rules(spec: JobSpec) -> Iterator[Rule]:
    workers, precision = spec.resources.num_workers, spec.train.precision
    yield Rule("num_processes", (workers,), f"resources.workers is {workers}")
    yield Rule("mixed_precision", _PRECISIONS[precision], f"train.precision is {precision}")
    gpus = spec.resources.gpus_per_worker
    yield Rule("use_cpu", (False,) if gpus else (False, True), f"resources.gpus_per_worker is {gpus}")


def _section_rules(section: Any, spec: JobSpec) -> Iterator[Rule]:
    """What ``deepspeed_config`` may say: the rest of it where it names a file, else everything."""
    if value_at(section, "deepspeed_config_file") is not None:
        for key in _SAID_BY_THE_FILE:
            yield Rule(key, (), "deepspeed_config_file is where this is said")
        return
    accumulation = divide_step(
        spec.batch.global_size, spec.resources.num_workers, spec.batch.planned_micro_size
    ).num_micro_batches
    yield Rule("gradient_accumulation_steps", tuple(dict.fromkeys((accumulation, 1))), batch_arithmetic(spec))
    yield clipping_rule("gradient_clipping", spec)
    for path, key in _ZERO_FIELDS.items():
        yield _zero_rule(path, key, value_at(section, "zero_stage"))


def _file_rules(values: Mapping[str, Any]) -> Iterator[Rule]:
    for path in _ZERO_FIELDS:
        yield _zero_rule(path, f"zero_optimization.{path}", zero_of(values).stage)


def _zero_rule(path: str, where: str, stage: Any) -> Rule:
    """What a configuration may say of ZeRO where no field of the spec does."""
    if path == "stage":
        return Rule(where, (0, 1, 2, 3), "DeepSpeed has no such stage")
    least = LEAST_STAGE[path.partition(".")[0]]
    stage = DEFAULT_ZERO_STAGE if is_left_to_the_job(stage) else stage
    if stage in range(least):
        return Rule(where, ("none",), f"ZeRO stage {stage} does not divide what would be offloaded")
    return Rule(where, ("none", "cpu"), "only host memory is offloaded to")
