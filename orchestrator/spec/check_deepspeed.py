"""Checks of a configuration of DeepSpeed: keys that DeepSpeed does not know, and values that contradict the job."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from orchestrator.spec.batch_arithmetic import divide_step
from orchestrator.spec.config_source import ConfigSource
from orchestrator.spec.deepspeed_config import read_deepspeed_config
from orchestrator.spec.deepspeed_keys import DEEPSPEED_KEYS
from orchestrator.spec.foreign_keys import Rule, key_problems, rule_problems, value_at
from orchestrator.spec.job import JobSpec
from orchestrator.spec.methods.engines import DeepSpeed
from orchestrator.spec.problems import Problem, SpecError, shown

LEAST_STAGE = {"offload_optimizer": 1, "offload_param": 3}
"""The ZeRO stage from which on there is something to offload."""
# Sections of DeepSpeed that would have a say in how a precision is computed.
_PRECISION_SECTIONS = {"fp32": (), "bf16": ("bf16", "bfloat16", "torch_autocast"), "fp16": ("fp16", "torch_autocast")}


def deepspeed_problems(spec: JobSpec, folder: Path) -> Iterator[Problem]:
    """DeepSpeed's configuration has only keys that DeepSpeed knows, and contradicts the job nowhere."""
    if not isinstance(spec.engine, DeepSpeed):
        return
    try:
        source = read_deepspeed_config(spec.engine, folder)
    except SpecError as error:
        yield from error.problems
        return
    yield from config_problems(source, spec, _zero_rules(spec.engine))


def config_problems(source: ConfigSource, spec: JobSpec, zero_rules: Iterable[Rule]) -> Iterator[Problem]:
    """Yield everything that is wrong with a configuration of DeepSpeed, whichever engine it is for."""
    rules = [*_batch_rules(spec), clipping_rule("gradient_clipping", spec), *zero_rules, *_precision_rules(spec)]
    problems = [
        *key_problems(source.values, DEEPSPEED_KEYS, source.path),
        *rule_problems(source.values, rules, source.path),
    ]
    first_by_path = {problem.path: problem for problem in reversed(problems)}
    yield from map(source.place, reversed(first_by_path.values()))


def clipping_rule(path: str, spec: JobSpec) -> Rule:
    """Only the spec says how gradients are clipped."""
    clip = spec.train.clip_grad_norm
    return Rule(path, (clip or 0,), f"train.clip_grad_norm is {shown(clip)}")


def batch_arithmetic(spec: JobSpec) -> str:
    """How the job divides a step, as its problems say it."""
    size, workers = spec.batch.global_size, spec.resources.num_workers
    division = divide_step(size, workers, spec.batch.planned_micro_size)
    micro, num_micro = division.largest_micro_batch, division.num_micro_batches
    if size == workers * micro * num_micro:
        return f"the job has {size} = {workers} workers x {micro} samples x {num_micro} micro-batches"
    each = f"up to {division.largest_slice} samples each in {num_micro} micro-batches of up to {micro}"
    return f"the job has {size} over {workers} workers: {each}"


def _batch_rules(spec: JobSpec) -> Iterator[Rule]:
    message = batch_arithmetic(spec)
    division = divide_step(spec.batch.global_size, spec.resources.num_workers, spec.batch.planned_micro_size)
    micro = dict.fromkeys((division.largest_micro_batch, spec.batch.planned_micro_size or division.largest_micro_batch))
    yield Rule("train_batch_size", (spec.batch.global_size,), message)
    yield Rule("train_micro_batch_size_per_gpu", tuple(micro), message)
    yield Rule("gradient_accumulation_steps", (division.num_micro_batches,), message)


def _zero_rules(engine: DeepSpeed) -> Iterator[Rule]:
    yield Rule("zero_optimization.stage", (engine.zero_stage,), f"engine.zero_stage is {engine.zero_stage}")
    for section in LEAST_STAGE:
        device = getattr(engine, section)
        path = f"zero_optimization.{section}.device"
        yield Rule(path, (device or "none",), f"engine.{section} is {shown(device)}")


def _precision_rules(spec: JobSpec) -> Iterator[Rule]:
    """Details of a precision that the engine computes itself would not be heeded."""
    precision = spec.train.precision
    for section in _PRECISION_SECTIONS[precision]:
        keys: Any = value_at(DEEPSPEED_KEYS, section)
        for key in keys:
            if key != "enabled":
                yield Rule(f"{section}.{key}", (), f"the engine computes {precision} itself, so it would not be heeded")
