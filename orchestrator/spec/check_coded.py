"""What types cannot see of a coded exchange: whether scheme, workers, optimizer and data go together."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from orchestrator.spec.job import JobSpec
from orchestrator.spec.methods.coded import SCHEME_PARAMETERS, Coded
from orchestrator.spec.problems import Problem, shown
from orchestrator.spec.sweep import choices_of

MOST_CYCLIC_WORKERS = 64
"""Beyond, the random code's decoding turns the rounding of fp32 messages into errors of 1e-5 and more."""
MOST_CYCLIC_WORKERS_BF16 = 16
"""Beyond, the rounding of bf16 messages becomes an error of a tenth and more."""


def scheme_problems(spec: JobSpec, folder: Path) -> Iterator[Problem]:
    """The scheme's parameters fit each other and the number of workers."""
    exchange, workers = spec.exchange, spec.resources.num_workers
    if not isinstance(exchange, Coded):
        return
    values = exchange.parameters()
    for name in ("stragglers", "backups", "replicas", "max_stragglers"):
        most = workers if name in ("replicas", "max_stragglers") else workers - 1
        if name in values and values[name] > most:
            message = f"with {workers} workers"
            yield Problem("", f"exchange.{name}", shown(values[name]), message, f"at most {most}")
    if "window" in values:
        yield from _window_problems(values["burst"], values["window"], exchange.scheme)
    if exchange.scheme == "cyclic":
        most = MOST_CYCLIC_WORKERS_BF16 if exchange.message_dtype == "bf16" else MOST_CYCLIC_WORKERS
        if workers > most:
            message = (
                f"with {workers} workers and {exchange.message_dtype} messages, decoding a cyclic code makes rounding "
                "errors too large"
            )
            yield Problem(
                "", "exchange.scheme", "cyclic", message, f"fractional, or cyclic with at most {most} workers"
            )


def _window_problems(burst: int, window: int, scheme: str) -> Iterator[Problem]:
    if window <= burst:
        message = f"the window must be longer than a burst of {burst} rounds"
        yield Problem("", "exchange.window", str(window), message, f"at least {burst + 1}")
    elif scheme == "sr_sgc" and (window - 1) % burst:
        message = f"sr_sgc needs window - 1 = {window - 1} to be a multiple of burst = {burst}"
        below = (window - 1) // burst * burst + 1
        legal = f"{below} or {below + burst}" if below > burst else str(burst + 1)
        yield Problem("", "exchange.window", str(window), message, legal)


def delayed_problems(spec: JobSpec, folder: Path) -> Iterator[Problem]:
    """Sequential codes decode a step rounds later; meanwhile other models use the workers."""
    if not isinstance(spec.exchange, Coded):
        return
    delay, num_models = spec.exchange.delay_rounds, len(choices_of(spec.sweep))
    if num_models <= delay:
        here = f"this sweep has {num_models}" if spec.sweep else "this job has one"
        message = (
            f"decodes a step up to {delay} rounds after its own, so {delay + 1} or more models must share the workers; "
            f"{here}"
        )
        others = ", ".join(name for name in SCHEME_PARAMETERS if name not in ("sr_sgc", "m_sgc"))
        legal = f"a sweep of {delay + 1} or more trials, or {others}"
        yield Problem("", "exchange.scheme", spec.exchange.scheme, message, legal)


def drawn_problems(spec: JobSpec, folder: Path) -> Iterator[Problem]:
    """With backup workers every worker draws a whole number of samples."""
    if not isinstance(spec.exchange, Coded) or spec.exchange.scheme != "backup":
        return
    size, workers = spec.batch.global_size, spec.resources.num_workers
    backups = spec.exchange.parameters()["backups"]
    if backups < workers and size % (workers - backups):
        counted = workers - backups
        message = f"{size} / {counted} workers that count = {size / counted:.6g} samples each"
        below = size // counted * counted
        legal = f"a multiple of {counted}: {below} or {below + counted}" if below else f"a multiple of {counted}"
        yield Problem("", "batch.global_size", str(size), message, legal)
