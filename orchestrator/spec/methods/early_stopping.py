"""Which trials of a sweep are stopped before their end because others are ahead: the rule, and what it compares."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from orchestrator.spec.section import PositiveInt, Section, exactly_one

OWN_PARAMETERS = {"asha": {"reduction_factor": 3}, "median": {"finished_trials": 3}}
"""The parameters that only one rule has, with their defaults."""


class First(Section):
    """How far a trial is when it is compared with others for the first time. Exactly one of steps, samples."""

    steps: PositiveInt | None = None
    """Optimizer steps."""
    samples: PositiveInt | None = None
    """Samples, which are fair to trials with batches of different sizes."""

    @model_validator(mode="after")
    def _one_unit(self) -> Self:
        exactly_one(self, ("steps", "samples"))
        return self

    @property
    def unit(self) -> Literal["steps", "samples"]:
        """What all comparisons count in."""
        return "samples" if self.steps is None else "steps"

    @property
    def amount(self) -> int:
        """How many of these."""
        amount = self.samples if self.steps is None else self.steps
        assert amount is not None  # exactly one is given
        return amount


class EarlyStopping(Section):
    """Which trials are stopped before their end, with a checkpoint, because others are ahead. Optuna decides."""

    rule: Literal["asha", "median"]
    """asha (asynchronous successive halving, arXiv 1810.05934): compared at `first` and at `reduction_factor` times as
    much, its square, its cube, ..., only the best of those that came as far before go on. median: compared each time a
    trial has gone as far as `first` again, it is stopped where its best value so far is worse than the median that
    finished trials had there."""
    metric: Annotated[str, Field(min_length=1, examples=["eval/accuracy"])] = "eval/loss"
    """What is compared, by its name in metrics.jsonl. What begins with `eval/` needs `train.eval_every`."""
    mode: Literal["min", "max"] = "min"
    """Whether small or large values are good."""
    first: First
    """How far a trial is when it is compared for the first time."""
    reduction_factor: Annotated[int, Field(ge=2)] | None = None
    """asha: one of so many goes on from each comparison (eta in the paper); null is 3."""
    finished_trials: PositiveInt | None = None
    """median: trials that must have finished before any is stopped; null is 3."""

    @model_validator(mode="after")
    def _own_parameters(self) -> Self:
        for rule, names in OWN_PARAMETERS.items():
            for name in names if rule != self.rule else ():
                if getattr(self, name) is not None:
                    raise ValueError(
                        f"{name} is of rule {rule}; {self.rule} takes {', '.join(OWN_PARAMETERS[self.rule])}"
                    )
        return self

    def parameter(self, name: str) -> int:
        """The value of one of the rule's own parameters."""
        given: int | None = getattr(self, name)
        return OWN_PARAMETERS[self.rule][name] if given is None else given
