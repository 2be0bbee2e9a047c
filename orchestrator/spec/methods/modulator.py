"""What every method of ``modulators`` declares."""

from __future__ import annotations

from typing import ClassVar, Literal

from orchestrator.spec.section import Method

Change = Literal["model", "loss", "data", "gradient"]


class Modulator(Method):
    """A method of ``modulators``, by what it changes."""

    changes: ClassVar[frozenset[Change]]
    """``model``: its layers, before anything else is done to it. ``loss``: how a micro-batch's gradient is computed,
    on whichever process computes it. ``data``: what comes with the samples of the steps ahead. ``gradient``: the
    step's, between its sum and the optimizer's step."""
