"""What do modulators and the measurement of the gradient's noise cost on a GPU: time, memory, waits of the host?

Two jobs, one plain and one changed, are assembled as the product assembles them, on one GPU, and take turns of a few
steps; every pair of turns gives one ratio. A turn ends when the GPU has done all its steps. Two nets: a small one
(`robust_recipe.py`), whose steps are bound by the host that asks for them, and one that keeps the GPU busy
(`enlarged_recipe.py`).

    pip install -e '.[benchmark]'
    python -m benchmarks.modulators_gpu --turns 8 --steps 10
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import statistics
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.learning import LastEvaluation
from orchestrator.core.collectives import Collectives
from orchestrator.core.errors import OrchestratorError
from orchestrator.core.run_directory import RunDirectory
from orchestrator.spec.job import JobSpec
from orchestrator.train.assemble import assemble
from orchestrator.train.context import RankContext
from orchestrator.train.job import Job
from orchestrator.train.loop import _stats, _take_step

FOLDER = Path(__file__).parent
BATCH, MICRO = 512, 128
NETS: dict[str, str] = {"small": "robust_recipe.py:PlainDigits", "busy": "enlarged_recipe.py:EnlargedDigits"}
ATTACK = {"epsilon": 0.1, "clip": [0.0, 1.0]}
CHECKED_STEPS = 5
STEADY = {"guards": {"max_size": BATCH}}
"""A controller that measures as it always does and changes nothing."""


@dataclass(frozen=True)
class Arm:
    """What is changed in a job."""

    modulators: tuple[dict[str, Any], ...] = ()
    batch: tuple[tuple[str, Any], ...] = ()
    """Fields of the section `batch`."""


def _modulated(name: str, **options: Any) -> Arm:
    return Arm(({"name": name, **options},))


def _measured(every: int) -> Arm:
    return Arm(batch=(("controller", {"name": "noise_scale", "statistic": {"every": every}, **STEADY}),))


PLAIN = Arm()
WHOLE = (("micro_size", BATCH),)
"""A step of one micro-batch: attacks are of whole batches."""
ARMS: dict[str, tuple[Arm, Arm]] = {
    "plain": (PLAIN, PLAIN),
    "noise_scale, every step": (PLAIN, _measured(1)),
    "noise_scale, every 10th step": (PLAIN, _measured(10)),
    "agvm, norms": (PLAIN, _modulated("agvm", start_step=0)),
    "agvm, split": (PLAIN, _modulated("agvm", start_step=0, estimator="split")),
    "adaptive_braking": (PLAIN, _modulated("adaptive_braking")),
    "gradient_noise": (PLAIN, _modulated("gradient_noise")),
    "ghost_norm": (PLAIN, _modulated("ghost_norm", size=32)),
    "weight_standardization": (PLAIN, _modulated("weight_standardization")),
    "batch_channel_norm": (PLAIN, _modulated("batch_channel_norm", groups=8)),
    "saved_activations": (PLAIN, _modulated("saved_activations")),
    "sam": (PLAIN, _modulated("sam")),
    "disadv": (Arm(batch=WHOLE), Arm(({"name": "disadv", **ATTACK},), WHOLE)),
    "conadv, before the step": (Arm(batch=WHOLE), Arm(({"name": "conadv", "concurrent": False, **ATTACK},), WHOLE)),
    "conadv, beside the step": (Arm(batch=WHOLE), Arm(({"name": "conadv", **ATTACK},), WHOLE)),
}
"""Each with what it is compared with; plain with itself, for what a difference says by chance."""


def assembled(net: str, arm: Arm, folder: Path, precision: str = "fp32", device: str = "cuda:0") -> Job:
    """One job of this process."""
    spec = JobSpec.model_validate(
        {
            "name": "modulators",
            "recipe": {"target": NETS[net]},
            "train": {"steps": 1_000_000, "seed": 0, "precision": precision},
            "batch": {"global_size": BATCH, "micro_size": MICRO, **dict(arm.batch)},
            "optimizer": {"name": "sgd", "lr": 0.01, "momentum": 0.9},
            "modulators": list(arm.modulators),
            "checkpoint": {"every": None},
        }
    )
    directory = RunDirectory(folder)
    folder.mkdir(parents=True)
    directory.code.symlink_to(FOLDER)
    directory.update_state(phase="running", attempts=1)
    context = RankContext(
        run_directory=directory,
        attempt=1,
        collectives=Collectives(),
        device=torch.device(device),
        nodes=("here",),
    )
    return next(assemble(spec, context, LastEvaluation())).job


def take_steps(job: Job, steps: int) -> None:
    """Until the GPU has done them."""
    for _ in range(steps):
        _take_step(job, job.controller.plan(_stats(job)))
    torch.cuda.synchronize()


def seconds_of(jobs: list[Job], turns: int, steps: int) -> list[list[float]]:
    """Seconds per step of every turn, by job."""
    seconds: list[list[float]] = [[] for _ in jobs]
    for turn in range(turns + 1):
        for index in range(len(jobs))[:: 1 if turn % 2 else -1]:
            started = time.perf_counter()
            take_steps(jobs[index], steps)
            seconds[index].append((time.perf_counter() - started) / steps)
    # The first turn allocates, and chooses cuDNN's algorithms.
    return [values[1:] for values in seconds]


def peak_of(job: Job) -> int:
    """Most bytes that a step holds beside what is held between steps."""
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    at_rest = torch.cuda.memory_allocated()
    take_steps(job, 1)
    return torch.cuda.max_memory_allocated() - at_rest


@contextmanager
def counted_waits() -> Iterator[Callable[[], int]]:
    """How often the host waits for the GPU meanwhile."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield lambda: sum("synchroniz" in str(warning.message) for warning in caught)
        finally:
            torch.cuda.set_sync_debug_mode("default")


def waits_of(job: Job, steps: int) -> float:
    """Waits of the host per step."""
    with counted_waits() as waits:
        for _ in range(steps):
            _take_step(job, job.controller.plan(_stats(job)))
        return waits() / steps


def difference_from_cpu(name: str, folder: Path) -> float:
    """How far the small net's weights after some steps are from a CPU's, in parts of the way that those went."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    arm = ARMS[name][1]
    jobs = [assembled("small", arm, folder / device, device=device) for device in ("cpu", "cuda:0")]
    first = _weights(jobs[0])
    for job in jobs:
        take_steps(job, CHECKED_STEPS)
    cpu, gpu = map(_weights, jobs)
    close(jobs)
    torch.backends.cudnn.allow_tf32 = True
    return float((gpu - cpu).norm() / (cpu - first).norm())


def _weights(job: Job) -> Tensor:
    return torch.cat([p.detach().double().cpu().flatten() for p in job.engine.model.parameters()])


def close(jobs: list[Job]) -> None:
    for job in jobs:
        job.data.close()
        job.engine.close()


def row(net: str, name: str, precision: str, turns: int, steps: int) -> str:
    """One row of the table, or what went wrong with it."""
    with tempfile.TemporaryDirectory() as folder:
        jobs: list[Job] = []
        try:
            for index, arm in enumerate(ARMS[name]):
                jobs.append(assembled(net, arm, Path(folder, str(index)), precision))
            plain, changed = seconds_of(jobs, turns, steps)
            peaks = [peak_of(job) for job in jobs]
            waits = [waits_of(job, steps) for job in jobs]
            off = difference_from_cpu(name, Path(folder, "checked"))
        except (OrchestratorError, RuntimeError) as error:
            traceback.print_exc()
            return f"| {net}, {precision} | {name} | {type(error).__name__}: {str(error).splitlines()[0]} |"
        finally:
            close(jobs)
    ratios = sorted(one / other for one, other in zip(changed, plain, strict=True))
    quarter = len(ratios) // 4
    spread = f"{statistics.median(ratios):.3f} ({ratios[quarter]:.3f} - {ratios[-1 - quarter]:.3f})"
    times = f"{statistics.median(plain) * 1e3:.2f} | {statistics.median(changed) * 1e3:.2f}"
    return (
        f"| {net}, {precision} | {name} | {times} | {spread} "
        f"| {peaks[0] / 2**20:.0f} | {peaks[1] / peaks[0]:.2f} | {waits[0]:g} | {waits[1]:g} | {off:.1e} |"
    )


def report(rows: list[str], command: str) -> str:
    """The result page."""
    return "\n".join(
        [
            "# What modulators and measurements cost on a GPU",
            "",
            f"`{command}`, {date.today()}, {torch.cuda.get_device_name()}, Python {platform.python_version()}, "
            f"torch {torch.__version__}, one worker.",
            f"SGD, ddp, {BATCH} images in micro-batches of {MICRO} (attacks: of {BATCH}). Turns of both jobs side by",
            "side until the GPU was done; ratio of their times, median with the quartiles. Memory: most that a step",
            "holds beside what is held between steps. Waits: operations per step that make the host wait for the GPU.",
            f"Off: of the small net in fp32 after {CHECKED_STEPS} steps, distance of its weights from those of a CPU,",
            "in parts of the distance that those moved.",
            "",
            "| net | arm | plain, ms | ms | ratio (quartiles) | plain, MiB | memory | waits, plain | waits | off |",
            "|---|---|---|---|---|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    parser.add_argument("--output", type=Path, default=None, help="default: a dated file beside this script")
    options = parser.parse_args()
    torch.cuda.set_device(0)
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", LOCAL_WORLD_SIZE="1")
    rows = []
    for net in options.nets:
        for name in options.arms:
            rows.append(row(net, name, options.precision, options.turns, options.steps))
            print(rows[-1], flush=True)
    command = f"python -m benchmarks.modulators_gpu --turns {options.turns} --steps {options.steps} "
    command += f"--precision {options.precision} --nets {' '.join(options.nets)}"
    text = report(rows, command)
    card = torch.cuda.get_device_name().split()[1]
    (options.output or FOLDER / f"modulators_1-{card}_{date.today()}.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
