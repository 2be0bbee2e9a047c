"""What does a step of each layer-wise optimizer cost on a GPU, beside torch's fused AdamW and a copy of its memory?

Every contestant and AdamW step copies of the same tensors in turns, in one process; every pair of turns gives one
ratio. A step is timed in two ways: behind matrix products that keep the GPU busy while the host asks for the step, as
at the end of a backward (what the GPU needs), and alone, on a GPU with nothing to do (what the host needs as well).

Before that each is stepped on small tensors and held against float64 on the CPU, and once with an error for every
operation that would wait for the GPU.

    pip install -e '.[benchmark]'
    python -m benchmarks.optimizer_step_gpu --turns 15
"""

from __future__ import annotations

import argparse
import gc
import itertools
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.optimizer_step import (
    BETAS,
    CONTESTANTS,
    EPS,
    LR,
    SIZES,
    Step,
    adamw,
    groups,
    ours_divided,
    shapes,
)
from orchestrator.core.errors import OrchestratorError
from orchestrator.optim.adafactor import Adafactor
from orchestrator.optim.came import Came
from orchestrator.optim.kernels.choice import Implementation
from orchestrator.optim.lamb import Lamb
from orchestrator.optim.lans import Lans
from orchestrator.optim.lars import Lars
from orchestrator.optim.novograd import NovoGrad

ROOT = Path(__file__).parents[1]
DEVICE = torch.device("cuda")
ALL_SIZES = {**SIZES, "1.3B": (24, 2048)}
CHECKED = (2, 128)
"""Blocks and width of the model that float64 steps on the CPU."""
CHECKED_STEPS, CHECKED_LR = 3, 0.1
COPIED_BYTES = 2**31
BUSY_MS = 10.0
"""The GPU is kept busy for at least this long before a step; for longer where the host needs longer to ask."""
Build = Callable[..., torch.optim.Optimizer]


@dataclass(frozen=True)
class Contestant:
    """One way to step."""

    build: Callable[[Sequence[nn.Parameter]], Step]
    numbers: int
    """That it must move through memory for each parameter, at the least."""
    dtype: torch.dtype = torch.float32


def lamb(params: Any, *, implementation: Implementation, **options: Any) -> torch.optim.Optimizer:
    return Lamb(params, betas=BETAS, eps=EPS, implementation=implementation, **options)


def stepping(build: Build, params: Sequence[nn.Parameter]) -> Step:
    return build(groups(params), lr=LR).step


# Read and written: what a step needs the sums of once, and again once they are known.
OURS: dict[str, tuple[Build, int]] = {
    "LAMB, Triton": (partial(lamb, implementation="fused"), 10),
    "LAMB, compiled": (partial(lamb, implementation="compiled"), 10),
    "LAMB, eager": (partial(lamb, implementation="eager"), 10),
    "LARS": (partial(Lars, trust_coefficient=1.0), 7),
    "LANS": (Lans, 12),
    "NovoGrad": (NovoGrad, 6),
    "Adafactor": (partial(Adafactor, eps=(1e-7, 1e-3)), 6),
    "CAME": (Came, 8),
}
PEERS = {
    "torch AdamW, foreach": 7,
    "timm Lamb": 10,
    "pytorch_optimizer Lamb, foreach": 10,
    "apex FusedLAMB": 10,
    "DeepSpeed FusedLamb": 10,
}
ALL: dict[str, Contestant] = {
    **{title: Contestant(partial(stepping, build), numbers) for title, (build, numbers) in OURS.items()},
    "LAMB, Triton, divided": Contestant(partial(ours_divided, implementation="fused"), 10),
    "LAMB, Triton, bfloat16": Contestant(partial(stepping, OURS["LAMB, Triton"][0]), 10, torch.bfloat16),
    "LAMB, eager, bfloat16": Contestant(partial(stepping, OURS["LAMB, eager"][0]), 10, torch.bfloat16),
    **{title: Contestant(CONTESTANTS[title], numbers) for title, numbers in PEERS.items()},
    "torch Adafactor": Contestant(partial(stepping, torch.optim.Adafactor), 6),
}
CHECKS = [*((title, torch.float32) for title in OURS), *((title, torch.bfloat16) for title in OURS if "LAMB" in title)]


def parameters(size: tuple[int, int], device: torch.device, dtype: torch.dtype) -> list[nn.Parameter]:
    """The same weights and gradients every time."""
    generator = torch.Generator(device).manual_seed(0)

    def draw(shape: tuple[int, ...], scale: float) -> Tensor:
        return torch.randn(shape, generator=generator, device=device).mul_(scale).to(dtype)

    params = [nn.Parameter(draw(shape, 0.02)) for shape in shapes(*size)]
    for parameter in params:
        parameter.grad = draw(tuple(parameter.shape), 1e-3)
    return params


def stepped(build: Build, device: torch.device, dtype: torch.dtype, start: torch.dtype) -> list[Tensor]:
    """Parameters of the small model after some steps, from values that are exact in ``start``."""
    params = [nn.Parameter(p.detach().to(device, dtype)) for p in parameters(CHECKED, torch.device("cpu"), start)]
    optimizer = build(groups(params), lr=CHECKED_LR)
    for step in range(CHECKED_STEPS):
        generator = torch.Generator().manual_seed(step)
        for parameter in params:
            gradient = torch.randn(parameter.shape, generator=generator).mul_(1e-3).to(start)
            parameter.grad = gradient.to(device, dtype)
        optimizer.step()
    return [parameter.detach().double().cpu() for parameter in params]


def norm(tensors: Sequence[Tensor]) -> float:
    return float(torch.cat([tensor.flatten() for tensor in tensors]).norm())


def check(title: str, dtype: torch.dtype) -> str:
    """A line on how far the steps are from those of float64, and whether they repeat themselves."""
    build = OURS[title][0]
    exact: Build = partial(lamb, implementation="eager") if title.startswith("LAMB") else build
    expected = stepped(exact, torch.device("cpu"), torch.float64, dtype)
    start = [p.detach().double() for p in parameters(CHECKED, torch.device("cpu"), dtype)]
    once, again = stepped(build, DEVICE, dtype, dtype), stepped(build, DEVICE, dtype, dtype)
    moved = norm([a - b for a, b in zip(expected, start, strict=True)])
    distance = norm([a - b for a, b in zip(once, expected, strict=True)]) / moved
    repeats = "yes" if all(torch.equal(a, b) for a, b in zip(once, again, strict=True)) else "no"
    return f"| {title} | {str(dtype).removeprefix('torch.')} | {distance:.1e} | {repeats} |"


class Busy:
    """Keeps the GPU busy with matrix products for a given time."""

    def __init__(self) -> None:
        self._factors = [torch.randn(4096, 4096, device=DEVICE, dtype=torch.bfloat16) for _ in range(2)]
        self._product = torch.empty_like(self._factors[0])
        self._of_one_ms = 1.0
        for _ in range(3):
            self._of_one_ms = gpu_ms(lambda: self._multiply(20)) / 20

    def _multiply(self, times: int) -> None:
        for _ in range(times):
            torch.mm(*self._factors, out=self._product)

    def work(self, ms: float) -> None:
        """Ask for products that take at least this long."""
        self._multiply(round(ms / self._of_one_ms) + 1)


def gpu_ms(step: Step, before: Callable[[], None] = lambda: None) -> float:
    """Time from the end of ``before`` to the end of the step on the GPU."""
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    before()
    begin.record()
    step()
    end.record()
    torch.cuda.synchronize()
    ms: float = begin.elapsed_time(end)
    return ms


def host_ms(step: Step) -> tuple[float, float]:
    """Times until a step on an idle GPU was asked for, and until it was done."""
    torch.cuda.synchronize()
    started = time.perf_counter()
    step()
    asked = time.perf_counter()
    torch.cuda.synchronize()
    return (asked - started) * 1e3, (time.perf_counter() - started) * 1e3


def waits(step: Step) -> str:
    """Whether anything in a step makes the host wait for the GPU."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    except RuntimeError as error:
        if "synchronizing" not in str(error):
            raise
        return "yes"
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return "no"


def copy_gb_s() -> float:
    """Bytes read and written per second by a copy within the GPU's memory."""
    source = torch.randn(COPIED_BYTES // 4, device=DEVICE)
    target = torch.empty_like(source)
    times = [gpu_ms(lambda: target.copy_(source)) for _ in range(25)]
    return 2 * COPIED_BYTES / statistics.median(times[5:]) / 1e6


@dataclass(frozen=True)
class Result:
    """Of one contestant on one model; times in ms, turn by turn."""

    size: str
    title: str
    gpu: list[float]
    adamw_gpu: list[float]
    asked: list[float]
    alone: list[float]
    waits: str
    extra_bytes: int
    """That a step takes besides what lasts."""
    moved_bytes: int

    def row(self, copied_gb_s: float) -> str:
        """Of the result page's table."""
        ratios = sorted(one / other for one, other in zip(self.gpu, self.adamw_gpu, strict=True))
        quarter = len(ratios) // 4
        spread = f"{statistics.median(ratios):.2f} ({ratios[quarter]:.2f} - {ratios[-1 - quarter]:.2f})"
        ms = statistics.median(self.gpu)
        rate = self.moved_bytes / ms / 1e6
        others = " | ".join(f"{statistics.median(times):.2f}" for times in (self.asked, self.alone))
        return (
            f"| {self.size} | {self.title} | {ms:.2f} | {spread} | {rate:.0f} ({rate / copied_gb_s:.0%}) | {others} | "
            f"{self.waits} | {self.extra_bytes / 2**20:.0f} |"
        )


def measure(size: str, title: str, busy: Busy, turns: int) -> Result:
    """Turns of one contestant and of AdamW; each is warm by then."""
    contestant = ALL[title]
    params = parameters(ALL_SIZES[size], DEVICE, contestant.dtype)
    step = contestant.build(params)
    reference = adamw(parameters(ALL_SIZES[size], DEVICE, contestant.dtype), fused=True)
    for _ in range(2):
        step()
        reference()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    asked, alone = zip(*(host_ms(step) for _ in range(turns)), strict=True)
    extra = torch.cuda.max_memory_allocated() - before
    keep_busy = partial(busy.work, max(BUSY_MS, 1.5 * statistics.median(asked)))
    times: list[list[float]] = [[], []]
    for turn in range(turns):
        for index in (0, 1) if turn % 2 else (1, 0):
            times[index].append(gpu_ms((step, reference)[index], keep_busy))
    num_bytes = sum(p.numel() for p in params) * contestant.numbers * contestant.dtype.itemsize
    return Result(size, title, times[0], times[1], list(asked), list(alone), waits(step), extra, num_bytes)


def attempt(size: str, title: str, busy: Busy, turns: int) -> Result | str:
    """The result, or why there is none."""
    try:
        return measure(size, title, busy, turns)
    except (ImportError, OrchestratorError) as error:
        return f"{title}: {error}"
    except torch.OutOfMemoryError:
        return f"{title}, {size}: the GPU's memory is too small."


def report(checked: list[str], rows: list[str], missing: list[str], copied_gb_s: float, turns: int) -> str:
    """The result page."""
    return "\n".join(
        [
            "# Steps of the layer-wise optimizers on a GPU beside torch's fused AdamW",
            "",
            f"`python -m benchmarks.optimizer_step_gpu --turns {turns}`, {date.today()}, "
            f"{torch.cuda.get_device_name()}, Python {platform.python_version()}, torch {torch.__version__}.",
            f"A copy within the GPU's memory moves {copied_gb_s:.0f} GB/s, bytes read and bytes written.",
            "",
            "BERT's tensors, float32 unless the name says otherwise, gradients given. GPU: median time of a step that "
            "is asked for while the GPU is busy; its ratio to AdamW's in each pair of turns, median with the "
            "quartiles; and GB/s by the bytes that the method must move, against the copy's. Asked, alone: until a "
            "step on an idle GPU was asked for, and until it was done. Waits: whether any operation of a step made "
            "the host wait for the GPU. More: memory that a step takes besides what lasts.",
            "LAMB moves 10 numbers per parameter where AdamW moves 7: without a cache the ratio cannot be below 1.43.",
            "",
            "| parameters | optimizer | GPU, ms | ratio (quartiles) | GB/s (of the copy's) | asked, ms | alone, ms | "
            "waits | more, MiB |",
            "|---|---|---|---|---|---|---|---|---|",
            *rows,
            "",
            *[f"Not measured: {line}" for line in missing],
            "",
            f"Distance of the parameters from float64 on the CPU after {CHECKED_STEPS} steps at a rate of "
            f"{CHECKED_LR}, over the distance that they moved:",
            "",
            "| optimizer | type | distance | repeats itself to the bit |",
            "|---|---|---|---|",
            *checked,
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--sizes", nargs="+", choices=ALL_SIZES, default=list(ALL_SIZES))
    parser.add_argument("--only", nargs="+", choices=ALL, default=list(ALL))
    parser.add_argument("--compiled", nargs="*", choices=ALL_SIZES, default=["109M"], help="compiling takes minutes")
    parser.add_argument("--output", type=Path, default=None, help="default: a dated file beside this script")
    options = parser.parse_args()
    copied, busy = copy_gb_s(), Busy()
    print(f"copy: {copied:.0f} GB/s", flush=True)
    checked: list[str] = []
    for title, dtype in CHECKS:
        if title in options.only and (options.compiled or title != "LAMB, compiled"):
            checked.append(check(title, dtype))
            print(checked[-1], flush=True)
    rows: list[str] = []
    missing: dict[str, None] = {}
    for size, title in itertools.product(options.sizes, options.only):
        if title == "LAMB, compiled" and size not in options.compiled:
            missing[f"{title}, {size}: left out (--compiled)."] = None
            continue
        found = attempt(size, title, busy, options.turns)
        gc.collect()
        torch.cuda.empty_cache()
        if isinstance(found, str):
            missing[found] = None
        else:
            rows.append(found.row(copied))
        print(found if isinstance(found, str) else rows[-1], flush=True)
    text = report(checked, rows, list(missing), copied, options.turns)
    card = torch.cuda.get_device_name().removeprefix("NVIDIA ").split()[0]
    (options.output or ROOT / "benchmarks" / f"optimizer_step_1-{card}_{date.today()}.md").write_text(text, "utf-8")


if __name__ == "__main__":
    main()
