"""Every way to run a LAMB step against the reference, against NumPy in float64, and against itself."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gloo import run_on_ranks
from torch import Tensor

from orchestrator.core.collectives import Collectives
from orchestrator.core.sums import sum_of_squares
from orchestrator.optim.kernels.choice import choose_lamb
from orchestrator.optim.kernels.compiled import CompiledLamb
from orchestrator.optim.kernels.fused import FusedLamb, load_library
from orchestrator.optim.kernels.lamb import (
    Coefficients,
    EagerLamb,
    LambBatch,
    LambKernels,
    UnavailableError,
    trust_ratios,
)

# Nothing, one element, fewer and more than a vector, around a block, around a chunk (16,384), around what one thread
# takes alone (65,536), and odd sizes between.
SIZES = [0, 1, 3, 15, 16, 17, 255, 256, 257, 1000, 16383, 16384, 16385, 65536, 65537, 200_003]
PLAIN = Coefficients(
    lr=0.01,
    beta1=0.9,
    beta2=0.999,
    correction1=1 - 0.9**3,
    correction2=1 - 0.999**3,
    eps=1e-6,
    weight_decay=0.01,
    adapt=True,
    min_norm=0.0,
    max_norm=float("inf"),
    min_ratio=0.0,
    max_ratio=float("inf"),
)
VARIANTS = {
    "plain": PLAIN,
    "not adapted": replace(PLAIN, adapt=False, weight_decay=0.0),
    "norm bounds": replace(PLAIN, min_norm=0.5, max_norm=2.0),
    "ratio bounds": replace(PLAIN, min_ratio=0.01, max_ratio=0.02),
    "no memory": replace(PLAIN, beta1=0.0, beta2=0.0, correction1=1.0, correction2=1.0),
}
BACKENDS: dict[str, Callable[[], LambKernels]] = {"eager": EagerLamb, "fused": FusedLamb}


@pytest.fixture(scope="module")
def compiled() -> CompiledLamb:
    """One for all tests, as compiling takes seconds."""
    return CompiledLamb()


@pytest.fixture(params=BACKENDS)
def kernels(request: pytest.FixtureRequest) -> LambKernels:
    return BACKENDS[request.param]()


def make(coefficients: Coefficients | Sequence[Coefficients], sizes: Sequence[int] = SIZES) -> LambBatch:
    generator = torch.Generator().manual_seed(1)

    def draw(scale: float) -> list[Tensor]:
        return [torch.randn(size, generator=generator) * scale for size in sizes]

    if isinstance(coefficients, Coefficients):
        coefficients = [coefficients] * len(sizes)
    return LambBatch(draw(0.1), draw(0.01), draw(0.01), [v.square() for v in draw(0.01)], coefficients)


def copy(batch: LambBatch) -> LambBatch:
    lists = ([t.clone() for t in tensors] for tensors in (batch.p, batch.g, batch.m, batch.v))
    return LambBatch(*lists, batch.coefficients)


def step(kernels: LambKernels, batch: LambBatch, *, divided: bool) -> Tensor:
    if not divided:
        return kernels.update(batch)
    sums = kernels.measure(batch)
    kernels.apply(batch, trust_ratios(sums, batch.coefficients))
    return sums


def in_float64(p: Tensor, g: Tensor, m: Tensor, v: Tensor, c: Coefficients) -> tuple[Any, ...]:
    """Algorithm 2 of arXiv 1904.00962v5 with the bounds, for one tensor: p, m, v and the two sums."""
    p, g, m, v = (t.double().numpy() for t in (p, g, m, v))
    m = c.beta1 * m + (1 - c.beta1) * g
    v = c.beta2 * v + (1 - c.beta2) * g**2
    u = (m / c.correction1) / (np.sqrt(v / c.correction2) + c.eps) + c.weight_decay * p
    norm, length = np.sqrt((p**2).sum()), np.sqrt((u**2).sum())
    ratio = 1.0
    if c.adapt and norm > 0 and length > 0:
        ratio = np.clip(np.clip(norm, c.min_norm, c.max_norm) / length, c.min_ratio, c.max_ratio)
    return p - c.lr * ratio * u, m, v, norm**2, length**2


def distance(got: Tensor, expected: Any) -> float:
    """Largest difference over the largest value."""
    if not got.numel():
        return 0.0
    return float(np.abs(got.double().numpy() - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("divided", [False, True], ids=["update", "measure, apply"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_step_is_that_of_float64(kernels: LambKernels, variant: str, divided: bool) -> None:
    batch = make(VARIANTS[variant])
    before = copy(batch)
    sums = step(kernels, batch, divided=divided)
    assert sums.shape == (len(SIZES), 2)
    assert sums.dtype == torch.float64
    for i, c in enumerate(batch.coefficients):
        p, m, v, *squares = in_float64(before.p[i], before.g[i], before.m[i], before.v[i], c)
        assert distance(batch.p[i], p) <= 1e-6
        assert distance(batch.m[i], m) <= 1e-6
        assert distance(batch.v[i], v) <= 1e-6
        np.testing.assert_allclose(sums[i], squares, rtol=1e-6)
        assert torch.equal(batch.g[i], before.g[i])


FEW_SIZES = [0, 1, 17, 1000, 20_001]


@pytest.mark.filterwarnings("ignore:.*script_method.*:DeprecationWarning")
def test_compiled_steps_are_those_of_float64_and_new_numbers_do_not_compile(compiled: CompiledLamb) -> None:
    counters = torch._dynamo.utils.counters["stats"]
    before_all = counters["unique_graphs"]
    for turn, c in enumerate(VARIANTS.values()):
        batch = make(replace(c, lr=c.lr / (turn + 1)), FEW_SIZES)
        before = copy(batch)
        sums = step(compiled, batch, divided=turn % 2 == 0)
        for i, numbers in enumerate(batch.coefficients):
            expected = in_float64(before.p[i], before.g[i], before.m[i], before.v[i], numbers)
            for got, value in zip((batch.p[i], batch.m[i], batch.v[i]), expected[:3], strict=True):
                assert distance(got, value) <= 1e-6
            np.testing.assert_allclose(sums[i], expected[3:], rtol=1e-6)
            assert torch.equal(batch.g[i], before.g[i])
    assert counters["unique_graphs"] - before_all == 2


@pytest.mark.filterwarnings("ignore:.*script_method.*:DeprecationWarning")
def test_compiled_steps_of_many_tensors_run_in_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.optim.kernels.compiled._BUCKET", 2)
    batch = make(PLAIN, [3] * 5)
    batch.g[-1].fill_(float("nan"))
    reference = copy(batch)
    step(CompiledLamb(), batch, divided=True)
    step(EagerLamb(), reference, divided=True)
    torch.testing.assert_close(batch.p, reference.p, rtol=1e-6, atol=1e-7, equal_nan=True)
    assert batch.p[-1].isnan().all()


def test_tensors_of_one_call_have_coefficients_of_their_own(kernels: LambKernels) -> None:
    batch = make(list(VARIANTS.values()), [70_000] * len(VARIANTS))
    before = copy(batch)
    step(kernels, batch, divided=False)
    for i, c in enumerate(batch.coefficients):
        p, *_ = in_float64(before.p[i], before.g[i], before.m[i], before.v[i], c)
        assert distance(batch.p[i], p) <= 1e-6


@pytest.mark.parametrize("divided", [False, True], ids=["update", "measure, apply"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_a_number_reaches_every_weight(kernels: LambKernels, bad: float, divided: bool) -> None:
    batch = make(replace(PLAIN, max_norm=10.0, max_ratio=10.0))
    for gradient in batch.g:
        if gradient.numel():
            gradient[gradient.numel() // 2] = bad
    step(kernels, batch, divided=divided)
    for p in batch.p:
        assert p.isnan().all()


@pytest.mark.parametrize("divided", [False, True], ids=["update", "measure, apply"])
def test_a_norm_of_zero_has_the_ratio_one(kernels: LambKernels, divided: bool) -> None:
    batch = make(PLAIN)
    for p in batch.p:
        p.zero_()
    adam = copy(batch)
    adam = LambBatch(adam.p, adam.g, adam.m, adam.v, [replace(PLAIN, adapt=False)] * len(SIZES))
    step(kernels, batch, divided=divided)
    step(kernels, adam, divided=divided)
    for p, q in zip(batch.p, adam.p, strict=True):
        assert torch.equal(p, q)


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("divided", [False, True], ids=["update", "measure, apply"])
def test_the_bits_do_not_depend_on_the_threads(threads: Callable[[int], None], divided: bool) -> None:
    results = []
    for number in (1, 2, 3, 3, 1):
        threads(number)
        batch = make(list(VARIANTS.values()) * 4, [*SIZES, *SIZES[:4]])
        results.append([step(FusedLamb(), batch, divided=divided), *batch.p, *batch.m, *batch.v])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_the_bits_do_not_depend_on_the_place_in_memory() -> None:
    batch = make(PLAIN)
    shifted = LambBatch(
        *([torch.cat([torch.zeros(1), t])[1:] for t in tensors] for tensors in (batch.p, batch.g, batch.m, batch.v)),
        batch.coefficients,
    )
    assert torch.equal(FusedLamb().update(batch), FusedLamb().update(shifted))
    assert all(torch.equal(a, b) for a, b in zip(batch.p, shifted.p, strict=True))


@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() == "DEFAULT", reason="needs a CPU with wider vectors")
def test_the_bits_do_not_depend_on_the_processor(tmp_path: Path) -> None:
    """A build without wide vectors, in a process that is told of none, gives the same."""
    batch = make(list(VARIANTS.values()) * 4, [*SIZES, *SIZES[:4]])
    torch.save((batch.p, batch.g, batch.m, batch.v), tmp_path / "before")
    script = (
        "import sys, torch; sys.path[:0] = sys.argv[2:]\n"
        "from test_lamb_kernels import *\n"
        "lists = torch.load(sys.argv[1] + '/before')\n"
        "batch = LambBatch(*lists, list(VARIANTS.values()) * 4)\n"
        "kernels = FusedLamb(); assert 'DEFAULT' in kernels.title, kernels.title\n"
        "kernels.update(batch); torch.save(batch.p, sys.argv[1] + '/after')"
    )
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": "default"}
    subprocess.run([sys.executable, "-c", script, str(tmp_path), *paths], env=environment, check=True)
    FusedLamb().update(batch)
    for got, expected in zip(batch.p, torch.load(tmp_path / "after"), strict=True):
        assert torch.equal(got, expected)


@pytest.mark.parametrize("value", [0.1, 0.3])
def test_the_norm_of_a_huge_tensor(value: float) -> None:
    """Equal elements are the worst case of a sum in float32: every addition rounds the same way."""
    size = 10**8
    p = torch.full((size,), value)
    zeros = torch.zeros(1).expand(size)
    expected = float(p[0].double()) ** 2 * size
    assert float(sum_of_squares(p)) == pytest.approx(expected, rel=1e-6)
    batch = LambBatch([p], [zeros.clone()], [torch.zeros(size)], [torch.zeros(size)], [PLAIN])
    assert float(FusedLamb().measure(batch)[0, 0]) == pytest.approx(expected, rel=1e-6)


def channels_last(tensor: Tensor) -> Tensor:
    return tensor.view(6, 5, 4, 3).to(memory_format=torch.channels_last)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "channels last": channels_last,
    "transposed": lambda t: t.view(20, 18).t(),
    "bfloat16": Tensor.bfloat16,
}


@pytest.mark.parametrize("divided", [False, True], ids=["update", "measure, apply"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_other_layouts_and_types_match_the_reference(layout: str, divided: bool) -> None:
    batch = make(PLAIN, [360, 360])
    lists = ([LAYOUTS[layout](tensors[0]), tensors[1]] for tensors in (batch.p, batch.g, batch.m, batch.v))
    batch = LambBatch(*lists, batch.coefficients)
    reference = copy(batch)
    step(FusedLamb(), batch, divided=divided)
    step(EagerLamb(), reference, divided=divided)
    torch.testing.assert_close(batch.p, reference.p, rtol=1e-6, atol=1e-7)


def test_autograd_notices_that_weights_moved() -> None:
    weight = torch.ones(4, requires_grad=True)
    loss = (weight * weight).sum()
    batch = LambBatch([weight], [torch.ones(4)], [torch.zeros(4)], [torch.zeros(4)], [PLAIN])
    with torch.no_grad():
        FusedLamb().update(batch)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def choose_here(implementation: str, folder: str | None = None, broken: int | None = None) -> tuple[str, str]:
    """Title and error of this rank's choice; rank ``broken`` has no compiler."""
    collectives = Collectives()
    if folder is not None:
        os.environ["TORCH_EXTENSIONS_DIR"] = f"{folder}/{collectives.rank if broken is not None else 'shared'}"
    if collectives.rank == broken:
        os.environ["CXX"] = "no-such-compiler"
    load_library.cache_clear()
    try:
        chosen = choose_lamb(implementation, torch.device("cpu"), torch.float32, collectives)  # type: ignore[arg-type]
    except UnavailableError as error:
        return "", str(error)
    return chosen.title, ""


@pytest.mark.distributed
def test_ranks_that_build_at_the_same_time_share_one_library(tmp_path: Path) -> None:
    results = run_on_ranks(2, choose_here, "fused", str(tmp_path))
    assert all(title.startswith("C++") for title, _ in results)
    assert len(list(tmp_path.rglob("*.so"))) == 1


@pytest.mark.distributed
def test_all_ranks_choose_what_the_poorest_has(tmp_path: Path) -> None:
    titles = [title for title, _ in run_on_ranks(2, choose_here, "auto", str(tmp_path), 1)]
    assert titles == [
        "eager, because 1 of 2 ranks cannot run the fused kernels",
        "eager, because the C++ kernels need a compiler and 'no-such-compiler' is not on PATH; CXX may name one",
    ]


@pytest.mark.distributed
def test_all_ranks_refuse_what_one_lacks(tmp_path: Path) -> None:
    errors = [error for _, error in run_on_ranks(2, choose_here, "fused", str(tmp_path), 0)]
    assert "'no-such-compiler' is not on PATH" in errors[0]
    assert "1 of 2 ranks" in errors[1]


COMPILERS = {
    "": "need a compiler and 'c++' is not on PATH",
    "echo 'lamb_fused.cpp:1: error: unknown flag' >&2; exit 1": "do not compile: lamb_fused.cpp:1: error: unknown flag",
    "exit 0": "cannot be built or loaded",
}


@pytest.mark.parametrize("body", COMPILERS)
def test_without_a_working_compiler_the_step_is_eager_and_says_why(body: str, tmp_path: Path) -> None:
    if body:
        compiler = tmp_path / "c++"
        compiler.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
        compiler.chmod(0o755)
    script = (
        "import sys; sys.path[:0] = sys.argv[1:]\n"
        "from test_lamb_kernels import choose_here\n"
        "print(choose_here('auto')[0]); print(choose_here('fused')[1])"
    )
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    environment = {**os.environ, "PATH": str(tmp_path), "TORCH_EXTENSIONS_DIR": str(tmp_path / "built")}
    environment.pop("CXX", None)
    command = [sys.executable, "-c", script, *paths]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    auto, fused = result.stdout.splitlines()
    assert auto.startswith("eager, because the C++ kernels")
    assert COMPILERS[body] in auto
    assert fused.startswith("optimizer.implementation: fused cannot be had here:")
    assert result.stderr == ""


def test_a_lock_that_a_dead_process_left_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    load_library.cache_clear()
    load_library()
    library = next(tmp_path.rglob("*.so"))
    library.unlink()
    library.with_suffix(".lock").touch()
    load_library.cache_clear()
    load_library()
    load_library.cache_clear()
    assert library.exists()


def check_triton(device: str) -> None:
    """Triton's kernels against float64, on tensors of float32 and with p, g and m in bfloat16."""
    from orchestrator.optim.kernels.triton_lamb import TritonLamb

    def to(batch: LambBatch, dtype: torch.dtype) -> LambBatch:
        lists = (batch.p, batch.g, batch.m, batch.v)
        wide = (torch.float32 if dtype == torch.float32 or i == 3 else dtype for i in range(4))
        moved = ([t.to(device, d, copy=True) for t in tensors] for tensors, d in zip(lists, wide, strict=True))
        return LambBatch(*moved, batch.coefficients)

    for turn, c in enumerate(VARIANTS.values()):
        batch = make(c, FEW_SIZES)
        moved = to(batch, torch.float32)
        sums = step(TritonLamb(), moved, divided=turn % 2 == 0)
        for i, numbers in enumerate(batch.coefficients):
            expected = in_float64(batch.p[i], batch.g[i], batch.m[i], batch.v[i], numbers)
            for got, value in zip((moved.p[i], moved.m[i], moved.v[i]), expected[:3], strict=True):
                assert distance(got.cpu(), value) <= 1e-6
            np.testing.assert_allclose(sums[i].cpu(), expected[3:], rtol=1e-6)
    rounded = to(make(PLAIN, FEW_SIZES), torch.bfloat16)
    before, again = copy(rounded), copy(rounded)
    sums = step(TritonLamb(), rounded, divided=True)
    for i in range(len(FEW_SIZES)):
        lists = (before.p, before.g, before.m, before.v)
        expected = in_float64(*(tensors[i].cpu() for tensors in lists), PLAIN)
        # m is kept in bfloat16, to which the interpreter truncates: up to 2^-7 of it, and twice that of a square.
        np.testing.assert_allclose(sums[i].cpu(), expected[3:], rtol=2**-6)
        assert distance(rounded.p[i].cpu(), expected[0]) <= 2**-7
    assert torch.equal(sums, step(TritonLamb(), again, divided=False))
    assert all(torch.equal(a, b) for a, b in zip(rounded.p, again.p, strict=True))
    bad = to(make(PLAIN, FEW_SIZES), torch.float32)
    for gradient in bad.g:
        gradient[gradient.numel() // 2 : gradient.numel() // 2 + 1] = float("nan")
    step(TritonLamb(), bad, divided=True)
    assert all(p.isnan().all() for p in bad.p)


TRITON_ONLY = Path(sys.prefix) / "triton-only"
"""Where `make triton` puts it: apart from the other packages, some of which do other things when they find it."""


def folders_with_triton() -> list[Path]:
    """What must be on the path besides, for Triton to be imported; without any Triton the test ends here."""
    if importlib.util.find_spec("triton") is not None:
        return []
    if not TRITON_ONLY.is_dir():
        reason = "needs Triton, which `make triton` puts beside the other packages"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    return [TRITON_ONLY]


def test_triton_steps_are_those_of_float64_in_its_interpreter() -> None:
    """A process of its own: Triton looks at the variable when kernels are defined."""
    script = "import sys; sys.path[:0] = sys.argv[1:]\nfrom test_lamb_kernels import check_triton; check_triton('cpu')"
    paths = [str(path) for path in (Path(__file__).parent, Path(__file__).parents[1], *folders_with_triton())]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    subprocess.run([sys.executable, "-c", script, *paths], env=environment, check=True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_triton_steps_are_those_of_float64_on_a_gpu() -> None:
    chosen = choose_lamb("fused", torch.device("cuda"), torch.float32, Collectives())
    moved = make(PLAIN, FEW_SIZES)
    lists = [[t.cuda() for t in tensors] for tensors in (moved.p, moved.g, moved.m, moved.v)]
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(chosen, LambBatch(*lists, moved.coefficients), divided=True)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    check_triton("cuda")


def test_other_types_and_devices_have_no_fused_kernels() -> None:
    chosen = choose_lamb("auto", torch.device("cpu"), torch.bfloat16, Collectives())
    assert chosen.title == "eager, because the C++ kernels take parameters of float32, not of bfloat16"
    with pytest.raises(UnavailableError, match="not for meta"):
        choose_lamb("fused", torch.device("meta"), torch.float32, Collectives())
