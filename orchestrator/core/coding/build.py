"""Makes a coding scheme from its name and its parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter, signature

from orchestrator.core.coding.approximate import approximate
from orchestrator.core.coding.cyclic import Cyclic
from orchestrator.core.coding.fractional import Fractional
from orchestrator.core.coding.m_sgc import MSgc
from orchestrator.core.coding.scheme import Scheme
from orchestrator.core.coding.sr_sgc import SrSgc
from orchestrator.core.coding.stochastic import Stochastic
from orchestrator.core.coding.uncoded import Backup, Ignore, Uncoded

SCHEMES: Mapping[str, Callable[..., Scheme]] = {
    "uncoded": Uncoded,
    "ignore": Ignore,
    "backup": Backup,
    "fractional": Fractional,
    "cyclic": Cyclic,
    "approximate": approximate,
    "stochastic": Stochastic,
    "sr_sgc": SrSgc,
    "m_sgc": MSgc,
}
"""Every scheme by its name. A scheme's parameters are the keyword arguments that it is made from."""

GIVEN = frozenset({"num_workers", "nodes", "seed"})
"""What the caller knows rather than a scheme's parameters."""


def build_scheme(
    name: str, num_workers: int, *, nodes: Sequence[str] | None = None, seed: int = 0, **parameters: int | str
) -> Scheme:
    """A scheme at the start of its first round.

    Args:
        name: One of ``SCHEMES``.
        num_workers: Workers that share a batch.
        nodes: Name of each worker's node, ``[num_workers]``, for schemes that place replicas; None takes any
            placement.
        seed: Of the random numbers that a code is drawn from.
        parameters: Those of the scheme; all that have no default of their own are needed.

    Raises:
        ValueError: in one sentence, where the name is unknown, or parameters are missing, unknown or out of range.
    """
    if name not in SCHEMES:
        raise ValueError(f"Invalid scheme value: {name!r}. Must be one of {', '.join(SCHEMES)}.")
    accepted = signature(SCHEMES[name]).parameters
    own = {key: value for key, value in accepted.items() if key not in GIVEN}
    legal = ", ".join(own) or "none"
    for key in parameters:
        if key not in own:
            raise ValueError(f"Invalid parameter of scheme {name}: {key!r}. Must be one of: {legal}.")
    for key, parameter in own.items():
        if parameter.default is Parameter.empty and key not in parameters:
            raise ValueError(f"Missing parameter of scheme {name}: {key!r}. It needs: {legal}.")
    given = {key: value for key, value in (("nodes", nodes), ("seed", seed)) if key in accepted}
    return SCHEMES[name](num_workers, **given, **parameters)
