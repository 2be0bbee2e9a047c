"""Makes traces and schemes from what a person writes: ``fractional:stragglers=3``, ``gilbert_elliott:factor=2``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from inspect import signature
from typing import Any

from orchestrator.core.coding.build import SCHEMES, build_scheme
from orchestrator.core.coding.scheme import Scheme
from orchestrator.core.errors import UsageError
from orchestrator.simulate.stragglers.generators import gilbert_elliott, gpu_fail_slow, lambda_functions
from orchestrator.simulate.stragglers.reference import reference
from orchestrator.simulate.stragglers.trace import Trace

GENERATORS: Mapping[str, Callable[..., Trace]] = {
    "reference": reference,
    "gilbert_elliott": gilbert_elliott,
    "lambda": lambda_functions,
    "gpu_fail_slow": gpu_fail_slow,
}
"""Every kind of made-up trace by its name. Its parameters are the keyword arguments of its function but the seed."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A scheme with its parameters."""

    scheme: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Whole numbers, and words such as a placement."""

    def __str__(self) -> str:
        """As ``read_setting`` takes it."""
        parameters = ",".join(f"{key}={value}" for key, value in self.parameters.items())
        return f"{self.scheme}:{parameters}" if parameters else self.scheme


def read_setting(text: str) -> Setting:
    """The setting of ``NAME`` or ``NAME:KEY=VALUE,...``.

    Raises:
        UsageError: where there is no scheme of this name, or the text has another form.
    """
    name, parameters = _read(text)
    if name not in SCHEMES:
        raise UsageError(f"{text}: there is no scheme {name}; legal are {', '.join(SCHEMES)}.")
    values = {key: int(value) if value.lstrip("-").isdecimal() else value for key, value in parameters.items()}
    return Setting(name, values)


def build(setting: Setting, num_workers: int, *, seed: int = 0) -> Scheme:
    """The scheme of a setting, at the start of its first round.

    Args:
        setting: The scheme with all parameters that have no default of their own.
        num_workers: Workers that share a batch.
        seed: Of the random numbers that a code is drawn from.

    Raises:
        UsageError: where a parameter is missing, unknown or out of its range.
    """
    try:
        return build_scheme(setting.scheme, num_workers, seed=seed, **setting.parameters)
    except ValueError as error:
        raise UsageError(f"{setting}: {error}") from None


def generate(text: str, num_rounds: int, num_workers: int, *, seed: int) -> Trace:
    """A made-up trace of the kind ``NAME`` or ``NAME:KEY=VALUE,...``.

    Raises:
        UsageError: where there is no such kind, or a value is not legal.
    """
    name, parameters = _read(text)
    if name not in GENERATORS:
        raise UsageError(f"{text}: there is no kind of trace {name}; legal are {', '.join(GENERATORS)}.")
    legal = set(signature(GENERATORS[name]).parameters) - {"num_rounds", "num_workers", "seed"}
    values = {}
    for key, value in parameters.items():
        if key not in legal:
            raise UsageError(f"{text}: {name} has no {key}; legal are {', '.join(sorted(legal))}.")
        try:
            values[key] = float(value)
        except ValueError:
            raise UsageError(f"{text}: {key} is {value}; it must be a number.") from None
    try:
        return GENERATORS[name](num_rounds, num_workers, seed=seed, **values)
    except ValueError as error:
        raise UsageError(f"{text}: {error}") from None


def _read(text: str) -> tuple[str, dict[str, str]]:
    name, colon, rest = text.partition(":")
    parameters: dict[str, str] = {}
    for part in rest.split(",") if colon else ():
        key, _, value = part.partition("=")
        if not key or not value or key in parameters:
            raise UsageError(f"{text}: must be NAME or NAME:KEY=VALUE,KEY=VALUE with each key once.")
        parameters[key] = value
    return name, parameters
