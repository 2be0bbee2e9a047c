"""The base of every part of the spec, and the small types that several parts share."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


class Section(BaseModel):
    """A strict, frozen mapping of the spec: unknown keys, wrong types and later changes are errors.

    The docstring under each field is its description in the JSON schema and in the generated reference.
    """

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


class Method(Section):
    """A section chosen by its ``name``; subclasses are the members of a discriminated union."""

    name: str
    requires: ClassVar[frozenset[str]] = frozenset()
    """Capabilities that the engine must provide for this method to be exact."""


def exactly_one(section: Section, units: tuple[str, ...]) -> None:
    """Check that exactly one of several fields is not null.

    Raises:
        ValueError: If none or several are given.
    """
    given = [unit for unit in units if getattr(section, unit) is not None]
    if len(given) != 1:
        hint = "; null takes back an inherited one" if given else ""
        raise ValueError(f"needs exactly one of {', '.join(units)}; got {', '.join(given) or 'none'}{hint}")


def name_alone(value: Any) -> Any:
    """``engine: ddp`` is short for ``engine: {name: ddp}``, wherever a method is chosen by its name."""
    return {"name": value} if isinstance(value, str) else value


def list_to_tuple(value: Any) -> Any:
    """YAML has lists where frozen values hold tuples."""
    return tuple(value) if isinstance(value, list) else value


DecayRate = Annotated[float, Field(ge=0, lt=1)]
"""Decay rate of a running average, in [0, 1)."""

Betas = Annotated[tuple[DecayRate, DecayRate], BeforeValidator(list_to_tuple)]
"""Two decay rates of running averages, each in [0, 1)."""

Patterns = Annotated[
    tuple[Annotated[str, Field(min_length=1, examples=["Block", "layers.*"])], ...],
    Field(min_length=1),
    BeforeValidator(list_to_tuple),
]
"""Modules of a model, each by its class or by its dotted name, where * stands for one part."""

PositiveInt = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
