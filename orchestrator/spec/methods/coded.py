"""Gradient coding as a spec asks for it."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any, Literal, Self

from pydantic import model_validator

from orchestrator.spec.methods.served import NonNegativeInt, Served
from orchestrator.spec.section import NonNegativeFloat, PositiveFloat, PositiveInt

SCHEME_PARAMETERS: Mapping[str, Mapping[str, int | str]] = {
    "fractional": {"stragglers": 1},
    "cyclic": {"stragglers": 1},
    "approximate": {"stragglers": 1, "replicas": 2, "placement": "fractional"},
    "uncoded": {},
    "ignore": {"stragglers": 1},
    "backup": {"backups": 1},
    "stochastic": {"stragglers": 1, "replicas": 2},
    "sr_sgc": {"burst": 1, "window": 2, "max_stragglers": 1},
    "m_sgc": {"burst": 1, "window": 2, "max_stragglers": 1},
}
"""The parameters of each scheme with their defaults."""


class Coded(Served):
    """Workers push coded gradients to the shards that own the weights; a step closes without its stragglers.

    A dead worker is a straggler too: the step closes without it and a replacement joins.
    """

    name: Literal["coded"]
    scheme: Literal[
        "fractional", "cyclic", "approximate", "uncoded", "ignore", "backup", "stochastic", "sr_sgc", "m_sgc"
    ] = "fractional"
    """What workers compute and when a step may close. Exact: fractional, cyclic, uncoded, sr_sgc, m_sgc. The others
    take what has arrived and scale it."""
    stragglers: NonNegativeInt | None = None
    """Workers that a step may close without; every chunk of the batch is computed once more for each of them under
    the exact schemes. Null is 1 where the scheme has it."""
    backups: PositiveInt | None = None
    """Scheme backup: workers beyond those whose gradients make the step; null is 1."""
    replicas: PositiveInt | None = None
    """Schemes approximate and stochastic: workers that compute each chunk; null is 2."""
    placement: Literal["fractional", "cyclic"] | None = None
    """Scheme approximate: which workers share a chunk; null is fractional."""
    burst: PositiveInt | None = None
    """Schemes sr_sgc and m_sgc: rounds in a row that a worker may be slow (B); null is 1."""
    window: PositiveInt | None = None
    """Schemes sr_sgc and m_sgc: rounds in which at most `max_stragglers` workers are slow (W); null is 2."""
    max_stragglers: NonNegativeInt | None = None
    """Schemes sr_sgc and m_sgc: workers that may be slow within a window (lambda); null is 1."""
    close: Literal["first", "deadline"] = "first"
    """first closes a step at the first moment at which it can be decoded; deadline waits (1 + `mu`) times as long as
    the fastest worker took, and for those without whom the step cannot close."""
    mu: NonNegativeFloat = 1.0
    """See `close`."""
    wait: Literal["all", "min"] = "min"
    """With a deadline that too many workers miss: wait for all of them, or until the step may close."""
    worker_timeout_s: PositiveFloat | None = 600.0
    """Seconds for which a worker may hold up a step that others have answered; then it is ended and replaced, as if it
    had died. Null waits for ever."""

    @model_validator(mode="after")
    def _own_parameters(self) -> Self:
        legal = SCHEME_PARAMETERS[self.scheme]
        known = {name for parameters in SCHEME_PARAMETERS.values() for name in parameters}
        strange = sorted(name for name in known - legal.keys() if getattr(self, name) is not None)
        if strange:
            raise ValueError(
                f"scheme {self.scheme} has no {', '.join(strange)}; legal are {', '.join(legal) or 'no parameters'}"
            )
        return self

    def draw_factor(self, workers: int) -> Fraction:
        """Samples that are drawn for each one in a step's mean: more than one where workers are spare."""
        return Fraction(workers, workers - self.parameters()["backups"]) if self.scheme == "backup" else Fraction(1)

    @property
    def delay_rounds(self) -> int:
        """Rounds after its own by which a step is decoded at the latest (T)."""
        values = self.parameters()
        if self.scheme == "sr_sgc":
            return int(values["burst"])
        return int(values["window"] - 2 + values["burst"]) if self.scheme == "m_sgc" else 0

    def parameters(self) -> dict[str, Any]:
        """The scheme's own parameters, defaults filled in."""
        return {
            name: default if getattr(self, name) is None else getattr(self, name)
            for name, default in SCHEME_PARAMETERS[self.scheme].items()
        }
