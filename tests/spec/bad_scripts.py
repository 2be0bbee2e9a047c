"""Jobs with a script: fields that belong to recipes, fields of the wrong type, files that are not there."""

from spec.bad_spec import GOOD, TRAIN, BadSpec

from orchestrator.spec.job import JobSpec, ScriptJobSpec

SCRIPT = "script: {path: recipe.py}\n"
"""A good spec: every file that is Python may be a script."""

_OF_RECIPES = [name for name in JobSpec.model_fields if name not in ScriptJobSpec.model_fields and name != "recipe"]
_BELONGS = "belongs to jobs with a recipe; a script decides this itself. Legal: name, script, resources, "

SCRIPT_FIELDS = [
    *(BadSpec(f"{name} beside a script", f"{SCRIPT}{name}: {{}}\n", name, _BELONGS) for name in _OF_RECIPES),
    BadSpec(
        "recipe and script", f"{GOOD}{SCRIPT}", "script", "stands beside recipe. Legal: recipe or script, not both"
    ),
    BadSpec("neither recipe nor script", TRAIN, "recipe", "missing. Legal: a mapping of target, args, or a script in"),
    BadSpec("a sweep of scripts", f"{SCRIPT}sweep: {{script.args: [[1], [2]]}}\n", "sweep", "an empty mapping"),
    BadSpec("script as a string", "script: recipe.py\n", "script", "a string. Legal: a mapping of path, args"),
    BadSpec("no path of a script", "script: {args: []}\n", "script.path", "missing"),
    BadSpec("a shell script", "script: {path: train.sh}\n", "script.path", "such as train.py"),
    BadSpec("misspelt arguments", "script: {path: recipe.py, arg: []}\n", "script.arg", "Did you mean 'args'?"),
    BadSpec("arguments in one string", "script: {path: recipe.py, args: -v}\n", "script.args", "a list, each item"),
    BadSpec(
        "boolean argument",
        "script: {path: recipe.py, args: [-v, true]}\n",
        "script.args.1",
        "a boolean. Legal: a string or an integer or a number",
    ),
    BadSpec("unknown key beside a script", f"{SCRIPT}resource: {{}}\n", "resource", "Did you mean 'resources'?"),
]

SCRIPT_FILES = [
    BadSpec("no such script", "script: {path: recip.py}\n", "script.path", "no such file in "),
    BadSpec("misspelt script", "script: {path: recip.py}\n", "script.path", "Did you mean 'recipe.py'?"),
    BadSpec("a folder", "script: {path: sub.py}\n", "script.path", "no such file", files={"sub.py/a.txt": ""}),
    BadSpec(
        "script outside",
        "script: {path: ../x.py}\n",
        "script.path",
        "is outside the spec's folder",
        files={"../x.py": ""},
    ),
    BadSpec("absolute script", "script: {path: /x.py}\n", "script.path", "is outside the spec's folder"),
    BadSpec(
        "script that is not Python",
        "script: {path: train.py}\n",
        "script.path",
        "is not valid Python: line 2: ",
        files={"train.py": "a = 1\nb = = 2\n"},
    ),
    BadSpec("override of a recipe's field", SCRIPT, "train", _BELONGS, overrides=("train.steps=3",)),
]
