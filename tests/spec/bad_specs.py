"""Specs that must be refused, each for one reason that the user can read: shared by the tests of spec and cli."""

from spec.bad_coded import CODED
from spec.bad_controllers import CONTROLLERS
from spec.bad_delayed import DELAYED
from spec.bad_elastic import ELASTIC
from spec.bad_engines import ACCELERATE, DEEPSPEED, ENGINES
from spec.bad_fields import KEYS, TYPES, VALUES
from spec.bad_modulators import MODULATORS
from spec.bad_norms import NORMS, SAME_UPDATES
from spec.bad_overrides import BASES, OVERRIDES
from spec.bad_recipes import COMBINATIONS, PHASES, RECIPES, SCALING
from spec.bad_retries import RETRIES
from spec.bad_scripts import SCRIPT_FIELDS, SCRIPT_FILES, SCRIPT_SWEEPS
from spec.bad_spec import BadSpec
from spec.bad_sweeps import SWEEP_FORMS, SWEEP_TRIALS
from spec.bad_trials import RANDOM_SWEEPS, SEPARATE_TRIALS, WAYS_TO_RUN
from spec.bad_yaml import FILES, YAML_VALUES

__all__ = ["BAD_SPECS", "BadSpec"]

BAD_SPECS: list[BadSpec] = [
    *FILES,
    *YAML_VALUES,
    *TYPES,
    *VALUES,
    *KEYS,
    *OVERRIDES,
    *BASES,
    *RECIPES,
    *COMBINATIONS,
    *SCALING,
    *PHASES,
    *SCRIPT_FIELDS,
    *SCRIPT_FILES,
    *SCRIPT_SWEEPS,
    *SWEEP_FORMS,
    *SWEEP_TRIALS,
    *SEPARATE_TRIALS,
    *RANDOM_SWEEPS,
    *WAYS_TO_RUN,
    *ENGINES,
    *DEEPSPEED,
    *ACCELERATE,
    *CODED,
    *DELAYED,
    *ELASTIC,
    *CONTROLLERS,
    *NORMS,
    *SAME_UPDATES,
    *MODULATORS,
    *RETRIES,
]
