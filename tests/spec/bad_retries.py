"""Retry classes that look at nothing, at what is not there, or by a pattern that is none."""

from spec.bad_spec import BadSpec, good

SCRIPT = "script: {path: recipe.py}\n"

RETRIES = [
    BadSpec(
        "pattern that is none",
        good('retries: {classes: [{cause: user_error, pattern: "CUDA [error"}]}'),
        "retries.classes.0.pattern",
        '"CUDA [error" is not a regular expression of Python: unterminated character set',
    ),
    BadSpec(
        "class without a condition",
        good("retries: {classes: [{cause: user_error}]}"),
        "retries.classes.0",
        "needs exit_codes, a pattern, or both",
    ),
    BadSpec(
        "exit codes of a recipe",
        good("retries: {classes: [{cause: user_error, pattern: x}, {cause: worker_lost, exit_codes: [137, 75]}]}"),
        "retries.classes.1.exit_codes",
        "[137, 75]: only a script has exit codes. Legal: a pattern",
    ),
    BadSpec(
        "cause of a class",
        good("retries: {classes: [{cause: diverged, pattern: x}]}"),
        "retries.classes.0.cause",
        "Legal: worker_lost, worker_crash, user_error, infrastructure",
    ),
    BadSpec("class without a cause", good("retries: {classes: [{pattern: x}]}"), "retries.classes.0.cause", "missing"),
    BadSpec(
        "exit code of success",
        f"{SCRIPT}retries: {{classes: [{{cause: worker_lost, exit_codes: [0]}}]}}\n",
        "retries.classes.0.exit_codes.0",
        "an integer >= 1 and <= 255",
    ),
    BadSpec(
        "signal as a negative number",
        f"{SCRIPT}retries: {{classes: [{{cause: worker_lost, exit_codes: [-9]}}]}}\n",
        "retries.classes.0.exit_codes.0",
        "out of range",
    ),
    BadSpec(
        "no exit codes",
        f"{SCRIPT}retries: {{classes: [{{cause: worker_lost, exit_codes: []}}]}}\n",
        "retries.classes.0.exit_codes",
        "too few entries",
    ),
    BadSpec(
        "one exit code",
        f"{SCRIPT}retries: {{classes: [{{cause: worker_lost, exit_codes: 137}}]}}\n",
        "retries.classes.0.exit_codes",
        "a list",
    ),
    BadSpec(
        "empty pattern",
        good('retries: {classes: [{cause: user_error, pattern: ""}]}'),
        "retries.classes.0.pattern",
        "too short",
    ),
    BadSpec(
        "misspelt condition",
        good("retries: {classes: [{cause: user_error, patterns: x}]}"),
        "retries.classes.0.patterns",
        "Did you mean 'pattern'?",
    ),
    BadSpec("negative budget", good("retries: {infrastructure: -1}"), "retries.infrastructure", "an integer >= 0"),
]
