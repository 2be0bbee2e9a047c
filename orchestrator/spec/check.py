"""What types cannot see: combinations of fields, and the files that a spec names. Runs no code of the user."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from orchestrator.spec.check_accelerate import accelerate_problems
from orchestrator.spec.check_asynchronous import order_problems, push_problems
from orchestrator.spec.check_coded import (
    delayed_problems,
    drawn_problems,
    scheme_problems,
)
from orchestrator.spec.check_controller import (
    averages_problems,
    groups_problems,
    probe_problems,
    rate_problems,
    size_problems,
    topology_problems,
)
from orchestrator.spec.check_data import data_file_problems, option_problems, split_problems, stream_problems
from orchestrator.spec.check_deepspeed import deepspeed_problems
from orchestrator.spec.check_delayed import (
    compensation_problems,
    inconsistent_problems,
    ordered_problems,
)
from orchestrator.spec.check_elastic import for_each_number, range_problems, wish_problems
from orchestrator.spec.check_engine import (
    lacking,
    mesh_problems,
    message_problems,
    methods_of,
    offload_problems,
    with_its_file,
)
from orchestrator.spec.check_loss_modulators import ahead_problems, group_problems, pass_problems, separate_problems
from orchestrator.spec.check_modulators import (
    braking_problems,
    normalization_problems,
    repeated_problems,
)
from orchestrator.spec.check_module_noise import noise_problems
from orchestrator.spec.check_optimizer import (
    adaptation_problems,
    free_steps_problems,
    layer_log_problems,
    nesterov_problems,
    preset_problems,
    second_derivative_problems,
)
from orchestrator.spec.check_recipe import argument_problems, coupling_problems, target_problems
from orchestrator.spec.check_retries import exit_code_problems
from orchestrator.spec.check_scaling import sde_problems, updates_problems, warmup_problems
from orchestrator.spec.check_script import repeated_option_problems, script_problems
from orchestrator.spec.check_served import injection_problems, served_problems
from orchestrator.spec.check_sweep import trial_problems
from orchestrator.spec.check_sweep_form import form_problems, trials_problems
from orchestrator.spec.job import AnyJobSpec, JobSpec, ScriptJobSpec
from orchestrator.spec.methods.asynchronous import Asynchronous
from orchestrator.spec.methods.engines import Engine
from orchestrator.spec.phases import PHASE_FIELDS, phases_of
from orchestrator.spec.problems import Problem, SpecError, overlaps, shown
from orchestrator.spec.section import Method

Check = Callable[[JobSpec, Path], Iterator[Problem]]


def check(spec: AnyJobSpec, folder: Path) -> list[Problem]:
    """Return everything wrong with a typed spec.

    Args:
        spec: The spec.
        folder: The folder that its relative paths are relative to.

    Returns:
        Problems without file and line, in the order of the spec's fields.
    """
    return run_checks(spec, folder, frozenset())


def run_checks(spec: AnyJobSpec, folder: Path, broken: frozenset[str]) -> list[Problem]:
    """Run the checks that read none of the broken fields (dotted paths), as `check` does all of them.

    Every trial of a sweep is checked as a job of its own, and so is every phase of a training.
    """
    if not spec.sweep:
        return _job_problems(spec, folder, broken)
    if overlaps("exchange", broken):  # which decides what a sweep may be
        return _job_problems(spec, folder, broken | {"sweep"})
    if problems := list(form_problems(spec, folder)):
        return [*problems, *_job_problems(spec, folder, broken | {"sweep"})]
    return [
        *_sweep_problems(spec, folder),
        *trial_problems(spec, lambda trial, unclear: _job_problems(trial, folder, unclear), broken),
    ]


def _sweep_problems(spec: AnyJobSpec, folder: Path) -> list[Problem]:
    """What no trial can see alone."""
    if isinstance(spec, ScriptJobSpec):
        return list(trials_problems(spec, folder))
    return [problem for single_check in SWEEP_CHECKS for problem in single_check(spec, folder)]


def _job_problems(spec: AnyJobSpec, folder: Path, broken: frozenset[str]) -> list[Problem]:
    """Everything wrong with a job, its sweep left aside."""
    if isinstance(spec, JobSpec):
        return _training_problems(spec, folder, broken)
    return [
        problem
        for single_check, reads in SCRIPT_CHECKS
        if not any(overlaps(path, broken) for path in reads)
        for problem in single_check(spec, folder)
    ]


def _training_problems(spec: JobSpec, folder: Path, broken: frozenset[str]) -> list[Problem]:
    """Everything wrong with one training; what is wrong in a phase already is not told again of the next."""
    first, *later = phases_of(spec)
    problems = _problems_of(first, folder, broken)
    told = set(problems)
    for index, phase in enumerate(later):
        found = _problems_of(phase, folder, broken)
        problems += [_in_phase(problem, index) for problem in found if problem not in told]
        told.update(found)
    return problems


def _problems_of(spec: JobSpec, folder: Path, broken: frozenset[str]) -> list[Problem]:
    return [
        problem
        for single_check, reads in CHECKS
        if not any(overlaps(path, broken) for path in reads)
        for problem in _found(single_check, reads, spec, folder)
    ]


def _found(single_check: Check, reads: tuple[str, ...], spec: JobSpec, folder: Path) -> Iterator[Problem]:
    """What a check finds; what reads the number of workers looks at every number that they may be."""
    if overlaps("resources.workers", reads):
        return for_each_number(single_check, spec, folder)
    return single_check(spec, folder)


def _in_phase(problem: Problem, index: int) -> Problem:
    """The problem of a phase, told of the phase's own field or else of the one that does not go with the phase."""
    if overlaps(problem.path, PHASE_FIELDS):
        return replace(problem, path=f"then.{index}.{problem.path}")
    return replace(problem, message=f"in the phase then.{index}: {problem.message}")


def batch_problems(spec: JobSpec, folder: Path) -> Iterator[Problem]:
    """Every worker needs at least one sample of each step; slices of unequal length are legal and exact."""
    size, workers = spec.batch.global_size, spec.resources.num_workers
    if isinstance(spec.exchange, Asynchronous):  # every worker computes steps of its own
        return
    if size < workers:
        message = f"{size} / {workers} workers = {size / workers:.3g} samples per worker; each needs at least 1"
        legal = f"{workers} or more (evenly divided: {workers}, {2 * workers}, {3 * workers}, ...), "
        yield Problem("", "batch.global_size", str(size), message, f"{legal}or resources.workers of at most {size}")


def capability_problems(spec: JobSpec, folder: Path) -> Iterator[Problem]:
    """Every method finds in the engine what it needs to be exact."""
    try:
        engine = with_its_file(spec.engine, folder)
    except SpecError:  # told by `accelerate_problems`
        return
    for path, method in methods_of(spec).items():
        yield from missing_capabilities(path, method, engine)


def missing_capabilities(path: str, method: Method, engine: Engine) -> Iterator[Problem]:
    """Yield one problem where an engine does not provide all that a method requires."""
    missing = lacking(method.requires, engine)
    if missing:
        message = f"requires {', '.join(sorted(missing))} of the engine, which {engine.title} does not provide"
        legal = f"methods that need only {', '.join(sorted(engine.provides))}"
        yield Problem("", f"{path}.name", shown(method.name), message, legal)


CHECKS: tuple[tuple[Check, tuple[str, ...]], ...] = (
    (target_problems, ("recipe.target", "data.source.name")),
    (argument_problems, ("recipe.target", "recipe.args")),
    (coupling_problems, ("recipe.target", "batch.micro_size", "exchange.name", "modulators")),
    (batch_problems, ("batch.global_size", "resources.workers")),
    (range_problems, ("exchange", "data.source")),
    (wish_problems, ("batch",)),
    (nesterov_problems, ("optimizer.name", "optimizer.momentum", "optimizer.dampening", "optimizer.nesterov")),
    (preset_problems, ("optimizer", "train.clip_grad_norm", "train.auto_clip")),
    (adaptation_problems, ("optimizer",)),
    (free_steps_problems, ("optimizer", "train.steps", "then")),
    (layer_log_problems, ("optimizer", "train.log_every")),
    (second_derivative_problems, ("optimizer.name", "train.compile", "train.precision")),
    (sde_problems, ("scaling", "optimizer", "batch.global_size")),
    (
        warmup_problems,
        ("schedule.warmup", "scaling", "batch.global_size", "train.steps", "train.epochs", "train.samples"),
    ),
    (
        updates_problems,
        ("scaling", "train.steps", "batch.global_size", "batch.controller", "schedule.warmup"),
    ),
    (topology_problems, ("batch.controller.name", "exchange")),
    (groups_problems, ("batch", "resources.workers")),
    (size_problems, ("batch", "resources.workers")),
    (rate_problems, ("batch", "schedule", "scaling")),
    (probe_problems, ("batch", "exchange", "data.source")),
    (averages_problems, ("batch", "optimizer", "scaling")),
    (
        capability_problems,
        ("batch.controller", "optimizer", "schedule", "exchange", "modulators", "data.source", "engine"),
    ),
    (message_problems, ("exchange", "engine")),
    (scheme_problems, ("exchange", "resources.workers")),
    (delayed_problems, ("exchange", "sweep")),
    (drawn_problems, ("exchange", "batch.global_size", "resources.workers")),
    (served_problems, ("exchange", "train.precision", "data", "optimizer")),
    (injection_problems, ("exchange", "resources.workers")),
    (push_problems, ("exchange", "batch.global_size")),
    (order_problems, ("exchange", "resources.workers", "train.steps", "train.samples", "batch.global_size", "then")),
    (ordered_problems, ("exchange", "data", "batch")),
    (inconsistent_problems, ("exchange", "train", "optimizer")),
    (compensation_problems, ("exchange", "optimizer")),
    (repeated_problems, ("modulators",)),
    (normalization_problems, ("modulators", "exchange")),
    (braking_problems, ("modulators", "optimizer")),
    (noise_problems, ("modulators", "optimizer", "engine", "exchange", "batch", "resources.workers")),
    (pass_problems, ("modulators", "exchange", "optimizer.name", "train.compile", "train.precision")),
    (group_problems, ("modulators", "exchange", "batch", "resources.workers")),
    (separate_problems, ("modulators", "train.activation_checkpointing")),
    (
        ahead_problems,
        ("modulators", "exchange", "batch.controller.name", "data.source", "train.activation_checkpointing"),
    ),
    (exit_code_problems, ("retries",)),
    (mesh_problems, ("engine", "resources.workers")),
    (offload_problems, ("engine",)),
    (deepspeed_problems, ("engine", "batch", "resources.workers", "train.clip_grad_norm", "train.precision")),
    (accelerate_problems, ("engine", "batch", "resources", "train.clip_grad_norm", "train.precision")),
    (data_file_problems, ("data.source.name", "data.source.path", "data.source.data_files", "data.source.options")),
    (
        split_problems,
        ("data.source.name", "data.source.data_files", "data.source.train_split", "data.source.eval_split"),
    ),
    (option_problems, ("data.source.name", "data.source.options")),
    (stream_problems, ("data.source", "data.loader_workers", "train.epochs", "schedule.warmup")),
    (trials_problems, ("trials", "train.eval_every", "exchange", "sweep")),
)
"""Every check with the fields it reads."""
SWEEP_CHECKS: tuple[Check, ...] = tuple(single_check for single_check, reads in CHECKS if "sweep" in reads)
"""The checks of the whole sweep, which no trial can see alone."""
SCRIPT_CHECKS: tuple[tuple[Callable[[ScriptJobSpec, Path], Iterator[Problem]], tuple[str, ...]], ...] = (
    (script_problems, ("script.path",)),
    (repeated_option_problems, ("script.args", "script.options")),
    (trials_problems, ("trials", "sweep")),
)
"""The checks of a job with a script, each with the fields it reads."""
