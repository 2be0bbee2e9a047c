"""Branches of a training: the same weights and optimizer state, going on with batches of different sizes.

The trunk is the job up to some step at a constant rate, with the noise of its gradient measured. Each branch is a job
of its own, the trunk followed by a second phase, that starts from the trunk's last checkpoint.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from orchestrator.checkpoint.listing import MANIFEST_NAME, latest_checkpoint
from orchestrator.checkpoint.manifest import Manifest
from orchestrator.core.errors import OrchestratorError
from orchestrator.core.run_directory import RunDirectory, read_json_lines
from orchestrator.launch.local import start_local
from orchestrator.launch.prepare import PreparedJob, prepare
from orchestrator.launch.store import JobStore
from orchestrator.simulate.critical_batch import LossCurve
from orchestrator.spec.job import JobSpec
from orchestrator.spec.load import LoadedSpec, load_resolved, load_spec, spec_hash
from orchestrator.spec.scaling import customary_rule, rate_factor


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """One branch."""

    batch: int
    lr: float
    """As ``optimizer.lr`` of the branch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """What is trained.

    Args:
        spec: file of a job with a recipe.
        overrides: as of ``--set``, for trunk and branches.
        storage: folder of all run directories.
        trunk_steps: steps before the branches part.
        branch_samples: length of each branch.
        say: takes messages for a person.
    """

    spec: Path
    overrides: Sequence[str]
    storage: Path
    trunk_steps: int
    branch_samples: int
    say: Callable[[str], None]

    def trunk(self) -> LoadedSpec:
        """The trunk's spec.

        Raises:
            SpecError: where it does not go with the job.
        """
        loaded = self._load([])
        assert isinstance(loaded.spec, JobSpec)
        batch = loaded.spec.batch
        controller = f"{{name: noise_scale, statistic: {{every: 1}}, guards: {{max_size: {batch.global_size}}}}}"
        more = [f"batch.controller={controller}"]
        micro_size = batch.planned_micro_size or batch.global_size
        if loaded.spec.resources.num_workers == 1 and micro_size >= batch.global_size:
            more.append(f"batch.micro_size={max(1, batch.global_size // 4)}")
        return self._load(more)

    def branches(self, factors: Sequence[float]) -> list[Branch]:
        """All branches, by what their batches are of the trunk's, the smallest first."""
        size = self._job(self._load([])).batch.global_size
        return [self.at(batch) for batch in sorted({max(1, round(factor * size)) for factor in factors})]

    def at(self, batch: int) -> Branch:
        """The branch of a batch, with the rate that goes with it."""
        spec = self._job(self._load([]))
        factor = rate_factor(customary_rule(spec.optimizer), batch, spec.batch.global_size)
        return Branch(batch=batch, lr=spec.optimizer.lr * factor)

    def workers_for(self, batch: int) -> int:
        """Workers that leave each the samples that it has in the job."""
        spec = self._job(self._load([]))
        return max(1, round(batch * spec.resources.num_workers / spec.batch.global_size))

    def branch(self, branch: Branch) -> LoadedSpec:
        """A branch's spec.

        Raises:
            SpecError: where its batch does not go with the job.
        """
        reference = self._job(self._load([])).scaling.reference_batch
        size = self._job(self._load([])).batch.global_size
        # The branch's rate holds what its batch makes of it; the job's own rule must not do it again.
        kept = (
            "" if reference is None else f", scaling: {{reference_batch: {max(1, reference * branch.batch // size)}}}"
        )
        phase = (
            f"{{train: {{samples: {self.branch_samples}}}, batch: {{global_size: {branch.batch}}}, "
            f"optimizer: {{lr: {branch.lr!r}}}, schedule: {{name: constant}}{kept}}}"
        )
        return self._load([f"then=[{phase}]", "train.log_every=1"], suffix=f"-b{branch.batch}")

    def train_trunk(self) -> RunDirectory:
        """Train the trunk, or take the one that is there.

        Raises:
            OrchestratorError: where it fails.
        """
        loaded = self.trunk()
        self.say(f"trunk: {self.trunk_steps} steps of {self._job(loaded).batch.global_size} samples")
        return self._trained(loaded, None)

    def train_branch(self, branch: Branch, trunk: RunDirectory) -> LossCurve:
        """Train a branch from the trunk's last checkpoint, or take the one that is there.

        Raises:
            OrchestratorError: where it fails.
        """
        self.say(f"branch: batch {branch.batch}, lr {branch.lr:.4g}, {self.branch_samples} samples")
        run = self._trained(self.branch(branch), trunk)
        return read_curve(run, branch.batch, after=self.trunk_steps)

    def _trained(self, loaded: LoadedSpec, trunk: RunDirectory | None) -> RunDirectory:
        """The run directory of a job that has been trained to its end, here and now where it has not."""
        store = JobStore(self.storage)
        if loaded.spec.name in store:
            run = store.get(loaded.spec.name)
            is_same = spec_hash(load_resolved(run.resolved_spec)) == spec_hash(loaded.spec)
            if is_same and run.read_state()["phase"] == "succeeded":
                self.say(f"{loaded.spec.name} was trained before")
                return run
        prepared = prepare(loaded, self.storage)
        if trunk is not None:
            give_checkpoint(trunk, prepared)
        with start_local(prepared) as driver:
            code = driver.wait()
        if code:
            message = prepared.run_directory.read_state().get("message", "")
            raise OrchestratorError(f"{loaded.spec.name} ended with exit code {code}: {message}")
        return prepared.run_directory

    def _load(self, more: Sequence[str], suffix: str = "-trunk") -> LoadedSpec:
        """The job cut to the trunk's length at a constant rate, with more overrides."""
        loaded = load_spec(self.spec, self.overrides)
        assert isinstance(loaded.spec, JobSpec)
        cut = ["train.epochs=null", "train.samples=null", f"train.steps={self.trunk_steps}", "then=[]"]
        cut.append("scaling.same_updates=false")
        warmup = loaded.spec.schedule.warmup
        kept = "null" if warmup is None else json.dumps(warmup.model_dump(mode="json"))
        cut += [f"schedule={{name: constant, warmup: {kept}}}", "batch.controller=constant"]
        cut.append(f"name={loaded.spec.name}{suffix}")
        return load_spec(self.spec, [*self.overrides, *cut, *more])

    @staticmethod
    def _job(loaded: LoadedSpec) -> JobSpec:
        assert isinstance(loaded.spec, JobSpec)
        return loaded.spec


def give_checkpoint(trunk: RunDirectory, branch: PreparedJob) -> None:
    """Copy the trunk's last checkpoint into a branch, as one of the branch's own training.

    Raises:
        OrchestratorError: where the trunk has none.
    """
    source = latest_checkpoint(trunk.checkpoints)
    if source is None:
        raise OrchestratorError(f"{trunk.name} has no checkpoint to branch from.")
    target = branch.run_directory.checkpoints / source.name
    shutil.copytree(source, target)
    manifest = replace(Manifest.read(target), spec_hash=spec_hash(branch.spec), controller={})
    (target / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8")


def read_curve(run: RunDirectory, batch: int, *, after: int) -> LossCurve:
    """The losses of a branch's own steps.

    Args:
        run: of the branch.
        batch: samples per step.
        after: steps of the trunk.

    Raises:
        OrchestratorError: where none are logged.
    """
    lines = [line for line in read_json_lines(run.metrics_file) if line["step"] > after and line.get("loss")]
    if not lines:
        raise OrchestratorError(f"{run.name} has logged no step of its branch.")
    sizes = np.array([float(line["global_size"]) for line in lines])
    return LossCurve(batch, np.cumsum(sizes) - sizes, np.array([float(line["loss"]) for line in lines]))


def measured_noise_scale(trunk: RunDirectory) -> float | None:
    """The noise scale in samples at the trunk's end; None where it is not known, or noise hides the gradient."""
    found = [event for event in read_json_lines(trunk.events_file) if event.get("event") == "batch"]
    if not found:
        return None
    value = found[-1]["noise_scale"]
    return None if value is None else float(value)
