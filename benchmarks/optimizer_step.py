"""What does a step of LAMB cost beside torch's fused AdamW, on the tensors of a BERT?

Every contestant and AdamW step copies of the same tensors in turns, in one process; every pair of turns gives one
ratio. Ours runs undivided (each tensor's norms and step while it is in the cache) and divided (all norms, the place of
the all-reduce, all steps), as sharded engines need it. LAMB moves 10 numbers per parameter through memory where AdamW
moves 7: without a cache the ratio cannot be below 1.43.

    pip install -e '.[benchmark]'
    python benchmarks/optimizer_step.py --turns 25
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from orchestrator.core.collectives import Collectives
from orchestrator.core.errors import OrchestratorError
from orchestrator.optim.kernels.choice import Implementation, choose_lamb
from orchestrator.optim.kernels.lamb import Coefficients, LambBatch, trust_ratios
from orchestrator.optim.lamb import Lamb

ROOT = Path(__file__).parents[1]
LR, BETAS, EPS, WEIGHT_DECAY = 1e-6, (0.9, 0.999), 1e-6, 0.01
SIZES = {"23M": (6, 384), "109M": (12, 768)}
"""Blocks and width of the two models."""
Step = Callable[[], Any]
Groups = list[dict[str, Any]]


def shapes(blocks: int, width: int) -> list[tuple[int, ...]]:
    """Of a BERT: embeddings and encoder."""
    norm: list[tuple[int, ...]] = [(width,), (width,)]
    attention: list[tuple[int, ...]] = [(width, width), (width,)] * 4
    perceptron: list[tuple[int, ...]] = [(4 * width, width), (4 * width,), (width, 4 * width), (width,)]
    block = attention + norm + perceptron + norm
    return [(30522, width), (512, width), (2, width), *norm, *block * blocks]


def parameters(size: str, device: torch.device) -> list[nn.Parameter]:
    """The same weights and gradients every time."""
    generator = torch.Generator(device).manual_seed(0)

    def draw(shape: tuple[int, ...], scale: float) -> Tensor:
        return torch.randn(shape, generator=generator, device=device) * scale

    params = [nn.Parameter(draw(shape, 0.02)) for shape in shapes(*SIZES[size])]
    for parameter in params:
        parameter.grad = draw(tuple(parameter.shape), 1e-3)
    return params


def groups(params: Sequence[nn.Parameter]) -> Groups:
    """With and without weight decay, as BERT's recipe has it."""
    return [
        {"params": [p for p in params if p.dim() > 1], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in params if p.dim() == 1], "weight_decay": 0.0},
    ]


def adamw(params: Sequence[nn.Parameter], **options: Any) -> Step:
    return torch.optim.AdamW(groups(params), lr=LR, betas=BETAS, eps=EPS, **options).step


def ours(params: Sequence[nn.Parameter], implementation: Implementation) -> Step:
    return Lamb(groups(params), lr=LR, betas=BETAS, eps=EPS, implementation=implementation).step


def ours_divided(params: Sequence[nn.Parameter], implementation: Implementation) -> Step:
    kernels = choose_lamb(implementation, params[0].device, params[0].dtype, Collectives())
    bounds = {"min_norm": 0.0, "max_norm": float("inf"), "min_ratio": 0.0, "max_ratio": float("inf")}
    batch = LambBatch(
        p=[p.detach() for p in params],
        g=[p.grad for p in params if p.grad is not None],
        m=[torch.zeros_like(p) for p in params],
        v=[torch.zeros_like(p) for p in params],
        coefficients=[
            Coefficients(
                lr=LR,
                beta1=BETAS[0],
                beta2=BETAS[1],
                correction1=1 - BETAS[0] ** 9,
                correction2=1 - BETAS[1] ** 9,
                eps=EPS,
                weight_decay=WEIGHT_DECAY * (p.dim() > 1),
                adapt=p.dim() > 1,
                **bounds,
            )
            for p in params
        ],
    )
    return lambda: kernels.apply(batch, trust_ratios(kernels.measure(batch), batch.coefficients))


def theirs(params: Sequence[nn.Parameter], where: str, **options: Any) -> Step:
    """Another library's, by its dotted path.

    Raises:
        ImportError: if it is not installed.
    """
    module, name = where.rsplit(".", 1)
    if module.startswith("timm."):
        import_without_running("timm", "timm.optim")
    optimizer = getattr(importlib.import_module(module), name)
    step: Step = optimizer(groups(params), lr=LR, betas=BETAS, eps=EPS, **options).step
    return step


def import_without_running(*packages: str) -> None:
    """Make packages importable without their own ``__init__``: timm's wants torchvision, its optimizers do not.

    Raises:
        ImportError: if they are not installed.
    """
    for name in packages:
        if name not in sys.modules:
            found = importlib.util.find_spec(name)
            if found is None or found.submodule_search_locations is None:
                raise ImportError(f"No module named {name!r}")
            package = ModuleType(name)
            package.__spec__, package.__path__ = found, list(found.submodule_search_locations)
            sys.modules[name] = package


CONTESTANTS: dict[str, Callable[[Sequence[nn.Parameter]], Step]] = {
    "ours, fused": partial(ours, implementation="fused"),
    "ours, fused, divided": partial(ours_divided, implementation="fused"),
    "ours, compiled": partial(ours, implementation="compiled"),
    "ours, compiled, divided": partial(ours_divided, implementation="compiled"),
    "ours, eager": partial(ours, implementation="eager"),
    "torch AdamW, foreach": partial(adamw, foreach=True),
    "pytorch_optimizer Lamb, loop": partial(theirs, where="pytorch_optimizer.Lamb", foreach=False),
    "pytorch_optimizer Lamb, foreach": partial(theirs, where="pytorch_optimizer.Lamb", foreach=True),
    "timm Lamb": partial(theirs, where="timm.optim.lamb.Lamb", max_grad_norm=None),
    "timm Lamb, clips the gradient": partial(theirs, where="timm.optim.lamb.Lamb"),
    "apex FusedLAMB": partial(theirs, where="apex.optimizers.FusedLAMB"),
    "DeepSpeed FusedLamb": partial(theirs, where="deepspeed.ops.lamb.FusedLamb"),
}
GPU_ONLY = {"apex FusedLAMB", "DeepSpeed FusedLamb"}


@dataclass(frozen=True)
class Result:
    """Of one contestant on one model."""

    size: str
    title: str
    lamb_s: list[float]
    adamw_s: list[float]

    def row(self) -> str:
        """Of the result page's table."""
        ratios = sorted(one / other for one, other in zip(self.lamb_s, self.adamw_s, strict=True))
        quarter = len(ratios) // 4
        spread = f"{statistics.median(ratios):.2f} ({ratios[quarter]:.2f} - {ratios[-1 - quarter]:.2f})"
        least = min(self.lamb_s) / min(self.adamw_s)
        times = " | ".join(f"{statistics.median(times) * 1e3:.2f}" for times in (self.lamb_s, self.adamw_s))
        return f"| {self.size} | {self.title} | {times} | {spread} | {least:.2f} |"


def measure(size: str, title: str, device: torch.device, turns: int) -> Result:
    """Turns of one contestant and of AdamW; each is warm by then."""
    pair = [CONTESTANTS[title](parameters(size, device)), adamw(parameters(size, device), fused=True)]
    seconds: list[list[float]] = [[], []]
    for turn in range(turns + 2):
        for index in (0, 1) if turn % 2 else (1, 0):
            synchronize(device)
            started = time.perf_counter()
            pair[index]()
            synchronize(device)
            if turn >= 2:
                seconds[index].append(time.perf_counter() - started)
    return Result(size, title, *seconds)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def machine(device: torch.device) -> str:
    """For a file's name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device).replace(" ", "-").lower()
    return f"{os.cpu_count()}-core-cpu"


def report(rows: list[str], missing: list[str], device: torch.device, turns: int, loads: list[float]) -> str:
    """The result page."""
    fused = choose_lamb("auto", device, torch.float32, Collectives()).title
    return "\n".join(
        [
            "# A step of LAMB beside torch's fused AdamW",
            "",
            f"`python benchmarks/optimizer_step.py --device {device.type} --threads {torch.get_num_threads()} "
            f"--turns {turns}`, {date.today()}, {platform.machine()}, {os.cpu_count()} cores, "
            f"Python {platform.python_version()}, torch {torch.__version__}; ours, fused: {fused}.",
            f"Load of the machine during the runs: {min(loads):.1f} - {max(loads):.1f} (1 is this benchmark on one "
            "thread; on a loaded machine only the ratios mean anything).",
            "",
            "BERT's tensors in float32, gradients given. Ratio of the times in each pair of turns: median with the "
            "quartiles; and of the least times.",
            "Bound without a cache: 1.43. Aim of ours, fused: at most 1.6.",
            "",
            "| parameters | optimizer | ms | AdamW fused, ms | ratio (quartiles) | of least |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
            *[f"Not measured: {line}" for line in missing],
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=25)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--threads", type=int, default=1, help="of torch, as one of several ranks on a node would have")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--without", nargs="+", choices=CONTESTANTS, default=[], help="compiling takes minutes")
    parser.add_argument("--output", type=Path, default=None, help="default: a dated file beside this script")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows: list[str] = []
    missing: dict[str, None] = {}
    loads: list[float] = []
    for size in options.sizes:
        for title in CONTESTANTS:
            if title in options.without:
                missing[f"{title}: left out (--without)."] = None
                continue
            if title in GPU_ONLY and options.device.type != "cuda":
                missing[f"{title}: needs a GPU."] = None
                continue
            try:
                result = measure(size, title, options.device, options.turns)
            except (ImportError, OrchestratorError) as error:
                missing[f"{title}: {error}"] = None
                continue
            gc.collect()
            loads.append(os.getloadavg()[0])
            rows.append(result.row())
            print(rows[-1], flush=True)
    text = report(rows, list(missing), options.device, options.turns, loads)
    default = ROOT / "benchmarks" / f"optimizer_step_{machine(options.device)}_{date.today()}.md"
    (options.output or default).write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
