"""The planned peak of a rank, compared with what real ranks hold while they train the text recipe.

Measured is the resident memory of the process (its high-water mark) above what it was before the job was assembled. A
training of a tiny model under the same engine comes first, so that imports and caches are not counted. Every larger
block of memory goes back to the system as soon as it is freed, so what is resident is what tensors hold, including what
gloo and the kernels allocate behind torch's back.
"""

import ctypes
import gc
import os
import shutil
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from gloo import run_on_ranks
from support import ListTracker, make_run_directory, tiny_spec

from orchestrator.core.collectives import Collectives
from orchestrator.core.run_directory import RunDirectory
from orchestrator.core.values import StepStats
from orchestrator.launch.memory.estimate import plan_memory
from orchestrator.launch.plan import batch_rows
from orchestrator.spec.job import JobSpec
from orchestrator.spec.load import load_recipe_job
from orchestrator.train.assemble import assemble
from orchestrator.train.context import RankContext

TEXT = Path(__file__).parents[2] / "jobs" / "text"
TINY = {"width": 64, "depth": 2, "sequence_length": 128}
WEIGHTS = {"width": 512, "depth": 4, "sequence_length": 64}
ACTIVATIONS = {"width": 128, "depth": 4, "sequence_length": 128}
ENGINES: dict[str, dict[str, Any]] = {
    "ddp": {"name": "ddp"},
    "fsdp2": {"name": "fsdp2"},
    **{f"deepspeed {stage}": {"name": "deepspeed", "zero_stage": stage} for stage in range(4)},
}
NUM_STEPS = 3
TOLERANCE = 0.15
MIB = 2**20

pytestmark = [
    pytest.mark.distributed,
    pytest.mark.timeout(300),
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status"),
]


def text_spec(workers: int, args: dict[str, int], *, micro_size: int, num_micro: int = 1, **sections: Any) -> JobSpec:
    text = {"max_bytes": 300_000, "num_evaluation_sequences": 1, **args}
    return tiny_spec(
        recipe={"target": "recipe.py:Text", "args": text},
        batch={"global_size": micro_size * num_micro * workers, "micro_size": micro_size},
        optimizer={"name": "adamw", "lr": 0.001},
        **sections,
    )


def prepare(root: Path, spec: JobSpec) -> str:
    directory = make_run_directory(root, spec)
    shutil.copy(TEXT / "recipe.py", directory.code)
    return str(directory.root)


def take_steps(root: str, device: str = "cpu") -> None:
    directory, collectives = RunDirectory(root), Collectives()
    context = RankContext(
        run_directory=directory,
        attempt=1,
        collectives=collectives,
        device=torch.device(device),
        nodes=("here",) * collectives.world_size,
    )
    job = next(assemble(load_recipe_job(directory.resolved_spec), context, ListTracker())).job
    with closing(job.data):
        for step in range(NUM_STEPS):
            _, micro_batches = job.data.step(job.controller.plan(StepStats(step=step, samples=0, loss=None)))
            job.engine.begin_step()
            for micro in micro_batches:
                job.engine.forward_backward(micro, job.loss)
            job.engine.step(lr=0.001)


def status(key: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key + ":"))
    return int(line.split()[1]) * 1024


def resident_peaks(jobs: list[tuple[str, str]]) -> list[int]:
    """Bytes that each job takes at its peak; jobs are a tiny one of its kind and the one that counts."""
    libc = ctypes.CDLL(None)
    libc.mallopt(-3, 32768)  # M_MMAP_THRESHOLD: blocks from here on are mapped, and unmapped when they are freed
    peaks = []
    for tiny, measured in jobs:
        take_steps(tiny)
        gc.collect()
        libc.malloc_trim(0)
        before = status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
        take_steps(measured)
        peaks.append(status("VmHWM") - before)
    return peaks


def allocated_peaks(jobs: list[tuple[str, str]]) -> list[int]:
    """``resident_peaks`` on a GPU, whose allocator knows them; workspaces are left by the tiny job."""
    peaks = []
    for tiny, measured in jobs:
        take_steps(tiny, "cuda")
        gc.collect()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        take_steps(measured, "cuda")
        peaks.append(torch.cuda.max_memory_allocated() - before)
    return peaks


def compare(
    tmp_path: Path, workers: int, engines: list[str], args: dict[str, int], *, gpus: int = 0, **options: Any
) -> None:
    """Run the job under each engine and hold the peaks against one plan."""
    roots = []
    options["resources"] = {"workers": workers, "gpus_per_worker": gpus}
    for number, engine in enumerate(engines):
        tiny = text_spec(workers, TINY, **{**options, "micro_size": 4}, engine=ENGINES[engine])
        measured = text_spec(workers, args, **options, engine=ENGINES[engine])
        roots.append((prepare(tmp_path / f"tiny{number}", tiny), prepare(tmp_path / f"job{number}", measured)))
    spec = text_spec(workers, args, **options)
    plan = plan_memory(spec, batch_rows(spec), TEXT, os.environ)
    assert not isinstance(plan, str), plan
    assert plan.activations_unknown is None
    planned = next(row.peaks for row in plan.rows if row.is_chosen)
    lines, wrong = [], []
    measure = allocated_peaks if gpus else resident_peaks
    for engine, peak in zip(engines, run_on_ranks(workers, measure, roots)[0], strict=True):
        expected = planned[engine].total
        off = expected / peak - 1
        lines.append(f"{engine:12} planned {expected / MIB:7.1f}, measured {peak / MIB:7.1f} MiB: {off:+.1%}")
        if abs(off) > TOLERANCE:
            wrong.append(engine)
    print("\n".join(lines))
    assert not wrong, "\n".join(lines)


def test_one_worker(tmp_path):
    compare(tmp_path, 1, ["ddp"], ACTIVATIONS, micro_size=16)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("args", [WEIGHTS, ACTIVATIONS], ids=["weights", "activations"])
def test_one_worker_on_a_gpu(tmp_path, args):
    compare(tmp_path, 1, ["ddp"], args, gpus=1, micro_size=16)


def test_weights_dominate_and_micro_batches_accumulate(tmp_path):
    compare(tmp_path, 2, list(ENGINES), WEIGHTS, micro_size=2, num_micro=2)


def test_activations_dominate(tmp_path):
    compare(tmp_path, 2, ["ddp", "fsdp2", "deepspeed 3"], ACTIVATIONS, micro_size=32)


def test_activations_are_computed_again(tmp_path):
    train = {"steps": 6, "activation_checkpointing": {"policy": "full"}}
    compare(tmp_path, 2, ["ddp", "fsdp2"], ACTIVATIONS, micro_size=32, train=train)
