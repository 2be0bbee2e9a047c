"""The learning rate of every step that a spec asks for, before anything is trained."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from orchestrator.core.errors import UsageError
from orchestrator.launch.phases import phase_plans
from orchestrator.optim.schedules import SampleSchedule
from orchestrator.spec.job import ScriptJobSpec
from orchestrator.spec.load import LoadedSpec
from orchestrator.spec.phases import batch_changes


def planned_rates(loaded: LoadedSpec) -> NDArray[np.float64]:
    """The rate ``[num_steps]`` of each step of a training whose length the spec alone tells.

    Raises:
        UsageError: for a script, a training of several phases, and where the number of steps or the warmup depends on
            the size of the training data, or on a batch that changes.
    """
    spec = loaded.spec
    if isinstance(spec, ScriptJobSpec):
        raise UsageError(f"{loaded.file}: script: its rates are decided by the script; give its curve as a CSV.")
    plan, *later = phase_plans(spec)
    if later:
        raise UsageError(f"{loaded.file}: then: a training of several phases has no one loss curve; `--set then=[]`.")
    if batch_changes(spec):
        raise UsageError(
            f"{loaded.file}: batch.controller: its steps depend on a batch that changes; "
            "`--set batch.controller=constant` tells them."
        )
    if plan.total_samples is None:
        raise _depends_on_data(loaded, "train.epochs", "--set train.epochs=null --set train.steps=N")
    if plan.warmup_samples is None:
        warmup = "schedule.warmup"
        raise _depends_on_data(loaded, f"{warmup}.epochs", f"--set {warmup}.epochs=null --set {warmup}.steps=N")
    total, size = plan.total_samples, plan.global_batch_size
    schedule = SampleSchedule(
        spec.schedule, peak_lr=plan.peak_lr, warmup_samples=plan.warmup_samples, total_samples=total
    )
    return np.array([schedule.lr(seen, min(size, total - seen)) for seen in range(0, total, size)])


def _depends_on_data(loaded: LoadedSpec, field: str, mend: str) -> UsageError:
    return UsageError(
        f"{loaded.file}: {field}: its steps depend on the size of the training data; `{mend}` tells them."
    )
