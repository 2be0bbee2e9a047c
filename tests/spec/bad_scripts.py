"""Jobs with a script: fields that belong to recipes, fields of the wrong type, files that are not there."""

from spec.bad_spec import GOOD, TRAIN, BadSpec, good

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
    BadSpec("script as a string", "script: recipe.py\n", "script", "a string. Legal: a mapping of path, args, options"),
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
    BadSpec(
        "options as a list",
        "script: {path: recipe.py, options: [--lr, 1]}\n",
        "script.options",
        "a list. Legal: a mapping, each value null or",
    ),
    BadSpec(
        "an option with its dashes",
        "script: {path: recipe.py, options: {--lr: 1}}\n",
        "script.options.--lr",
        "not of the right form. Legal: a string of the form ^[A-Za-z0-9_][A-Za-z0-9_-]*$",
    ),
    BadSpec(
        "an option with a dot",
        "script: {path: recipe.py, options: {model.lr: 1}}\n",
        "script.options.model.lr",
        "not of the right form",
    ),
    BadSpec(
        "options below options",
        "script: {path: recipe.py, options: {model: {lr: 1}}}\n",
        "script.options.model",
        "a mapping. Legal: null or true or false or an integer",
    ),
    BadSpec(
        "a boolean among the words of an option",
        "script: {path: recipe.py, options: {betas: [0.9, true]}}\n",
        "script.options.betas.1",
        "a boolean. Legal: an integer or a number or a string",
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
    BadSpec(
        "an option that the arguments have too",
        "script: {path: recipe.py, args: [-v, --lr=1], options: {lr: 2}}\n",
        "script.options.lr",
        "= 2: --lr stands in script.args too. Legal: one of the two",
    ),
]


def swept(lists: str, lines: str = "") -> str:
    """A job with a script and a sweep, and more lines."""
    return f"script: {{path: recipe.py, args: [--epochs, 3]}}\nsweep: {lists}\n{lines}"


SCRIPT_SWEEPS = [
    BadSpec(
        "a sweep of scripts over a recipe's field",
        swept("{optimizer.lr: [0.1, 0.2]}"),
        "sweep.optimizer.lr",
        "belongs to jobs with a recipe; a script decides this itself. Legal: paths in script, resources, retries, env",
    ),
    BadSpec(
        "a sweep of recipes over a script's field",
        good("sweep: {script.args: [[1], [2]]}"),
        "sweep.script.args",
        "belongs to jobs with a script. Legal: paths in recipe, train",
    ),
    BadSpec(
        "a sweep of scripts over the name",
        swept("{name: [a, b]}"),
        "sweep.name",
        "is the whole job's and cannot differ between trials",
    ),
    BadSpec(
        "a sweep over an option as if it were an argument",
        swept("{script.args.lr: [0.1, 0.2]}"),
        "sweep.script.args.lr",
        "the items of script.args have numbers. Legal: script.options.lr for --lr, or script.args.NUMBER",
    ),
    BadSpec(
        "a sweep over a word that is not there",
        swept("{script.args.2: [0.1, 0.2]}"),
        "sweep.script.args.2",
        "script.args has no item 2. Legal: 0 to 1",
    ),
    BadSpec(
        "a sweep over an unknown field of a script",
        swept("{script.lr: [0.1, 0.2]}"),
        "sweep.script.lr",
        "unknown key. Legal: path, args, options",
    ),
    BadSpec(
        "one option in a sweep that is none",
        swept("{script.options.lr: [0.1, {b: 1}]}"),
        "sweep.script.options.lr.1",
        "a mapping. Legal: null or",
    ),
    BadSpec(
        "a sweep over an option that the arguments have too",
        swept("{script.options.epochs: [1, 2]}"),
        "sweep.script.options.epochs",
        "= [1, 2]: --epochs stands in script.args too",
    ),
    BadSpec(
        "one script in a sweep that is not there",
        swept("{script.path: [recipe.py, recip.py]}"),
        "sweep.script.path.1",
        "no such file in ",
    ),
    BadSpec(
        "two trials of a script that are the same",
        swept("{script.options.amp: [false, false]}"),
        "sweep.script.options.amp.1",
        "makes trial 1 the same as trial 0",
    ),
    BadSpec(
        "trials of a script without a sweep", f"{SCRIPT}trials: {{concurrent: 2}}\n", "trials", "there is no sweep"
    ),
    BadSpec(
        "early stopping of scripts",
        swept(
            "{script.options.lr: [0.1, 0.2]}",
            "trials: {early_stopping: {rule: asha, metric: loss, first: {steps: 2}}}\n",
        ),
        "trials.early_stopping",
        "a script's metrics are in its MLflow run alone. Legal: no early_stopping: every trial runs to its end",
    ),
]
