"""Recipes that are not there or not recipes, and combinations of fields that cannot work."""

from spec.bad_spec import GOOD, METHODS, RECIPE, BadSpec, aims_at, class_with, good, hugging_face

RECIPES = [
    BadSpec("missing recipe file", aims_at("recpe.py:Tiny"), "recipe.target", "Did you mean 'recipe.py:Tiny'?"),
    BadSpec("target without class", aims_at("recipe.py"), "recipe.target", "of the form"),
    BadSpec("target outside", aims_at("../tiny/recipe.py:Tiny"), "recipe.target", "outside the spec's"),
    BadSpec("absolute target", aims_at("/tmp/recipe.py:Tiny"), "recipe.target", "outside the spec's"),
    BadSpec(
        "target is a folder",
        aims_at("sub.py:Tiny"),
        "recipe.target",
        "no such file",
        files={"sub.py/recipe.py": RECIPE},
    ),
    BadSpec(
        "target is a path without py",
        aims_at("sub/recipe:Tiny"),
        "recipe.target",
        "neither a .py file nor a module",
        files={"sub/recipe.py": RECIPE},
    ),
    BadSpec("roundabout target", aims_at("./recipe.py:Tiny"), "recipe.target", "Did you mean 'recipe.py:Tiny'?"),
    BadSpec(
        "dots in the file name",
        aims_at("my.recipe.py:Tiny"),
        "recipe.target",
        "dot in its name",
        files={"my.recipe.py": RECIPE},
    ),
    BadSpec(
        "recipe named like a library",
        aims_at("json.py:Tiny"),
        "recipe.target",
        "library json",
        files={"json.py": RECIPE},
    ),
    BadSpec("missing module", aims_at("no_such_module:Tiny"), "recipe.target", "no module no_such"),
    BadSpec("missing submodule", aims_at("email.no_such:Tiny"), "recipe.target", "no module email.no"),
    BadSpec("submodule of a module", aims_at("recipe.json:Tiny"), "recipe.target", "no module recipe.json"),
    BadSpec("target is no module", aims_at("my-module:Tiny"), "recipe.target", "neither a .py file"),
    BadSpec(
        "missing class of a module",
        aims_at("email.message:Massage"),
        "recipe.target",
        "Did you mean 'email.message:Message'?",
    ),
    BadSpec(
        "recipe does not parse", GOOD, "recipe.target", "not valid Python: line 1", files={"recipe.py": "class :\n"}
    ),
    BadSpec("recipe is not utf-8", GOOD, "recipe.target", "not valid Python", files={"recipe.py": b"x = '\xe9'\n"}),
    BadSpec("recipe has null bytes", GOOD, "recipe.target", "not valid Python", files={"recipe.py": b"x = 1\0\n"}),
    BadSpec(
        "recipe nests too deeply",
        GOOD,
        "recipe.target",
        "not valid Python",
        files={"recipe.py": "x = " + "-" * 100_000 + "1\n"},
    ),
    BadSpec("missing class", aims_at("recipe.py:Tinny"), "recipe.target", "Did you mean 'recipe.py:Tiny'?"),
    BadSpec("no class at all", GOOD, "recipe.target", "defines no class", files={"recipe.py": "x = 1\n"}),
    BadSpec("class is a function", GOOD, "recipe.target", "is a function", files={"recipe.py": "def Tiny(): ...\n"}),
    BadSpec(
        "class without loss",
        GOOD,
        "recipe.target",
        "has no loss(model, batch)",
        files={"recipe.py": class_with(*METHODS[:2])},
    ),
    BadSpec(
        "class without model",
        GOOD,
        "recipe.target",
        "has no build_model()",
        files={"recipe.py": class_with(*METHODS[1:])},
    ),
    BadSpec(
        "class without data",
        GOOD,
        "recipe.target",
        "has no build_datasets()",
        files={"recipe.py": class_with(METHODS[0], METHODS[2])},
    ),
    BadSpec(
        "protocol without loss",
        GOOD,
        "recipe.target",
        "has no loss(model, batch)",
        files={"recipe.py": class_with(*METHODS[:2], head="import typing\nclass Tiny(typing.Protocol[int], object):")},
    ),
    BadSpec(
        "misspelt argument",
        aims_at("recipe.py:Tiny", "{hiddenn: 3}"),
        "recipe.args.hiddenn",
        "Legal: hidden, depth. Did you mean 'hidden'?",
    ),
    BadSpec(
        "argument for none",
        aims_at("recipe.py:Tiny", "{a: 1}"),
        "recipe.args.a",
        "the class takes no arguments",
        files={"recipe.py": class_with(*METHODS)},
    ),
    BadSpec(
        "missing argument",
        GOOD,
        "recipe.args.hidden",
        "the class needs hidden",
        files={"recipe.py": class_with("__init__(self, hidden, depth=1)", *METHODS)},
    ),
    BadSpec(
        "missing field",
        GOOD,
        "recipe.args.hidden",
        "missing",
        files={"recipe.py": class_with(*METHODS, head="@dataclass\nclass Tiny:\n    hidden: int\n    depth: int = 1")},
    ),
]

COMBINATIONS = [
    BadSpec(
        "impossible batch",
        good("batch: {global_size: 4}\nresources: {workers: 8}"),
        "batch.global_size",
        "4 / 8 workers = 0.5 samples per worker; each needs at least 1. Legal: 8 or more",
    ),
    BadSpec(
        "warmup longer than training", good("schedule: {warmup: {steps: 9}}"), "schedule.warmup.steps", "at most 8"
    ),
    BadSpec(
        "nesterov without momentum",
        good("optimizer: {name: sgd, nesterov: true}"),
        "optimizer.momentum",
        "needs momentum",
    ),
    BadSpec(
        "nesterov with dampening",
        good("optimizer: {name: sgd, nesterov: true, momentum: 0.9, dampening: 0.1}"),
        "optimizer.dampening",
        "no dampening",
    ),
    BadSpec(
        "missing data file", hugging_face("data_files: {train: a.json}"), "data.source.data_files.train", "no such file"
    ),
    BadSpec(
        "empty glob",
        hugging_face("data_files: {train: [data/*.json]}"),
        "data.source.data_files.train.0",
        "no such file",
    ),
    BadSpec("no data files", hugging_face("train_split: train"), "data.source.data_files", "json reads files"),
    BadSpec("empty list of files", hugging_face("data_files: {train: []}"), "data.source.data_files.train", "no files"),
    BadSpec(
        "split without files",
        hugging_face("data_files: {train: recipe.py}, eval_split: 'tran[:10%]'"),
        "data.source.eval_split",
        "Did you mean 'train'?",
    ),
    BadSpec(
        "option that is a field",
        hugging_face("data_files: {train: recipe.py}, options: {split: train}"),
        "data.source.options.split",
        "train_split",
    ),
    BadSpec(
        "stream with loader processes",
        good(
            "data: {loader_workers: 2, source: {name: hugging_face, path: json, streaming: true, "
            "data_files: {train: recipe.py}}}"
        ),
        "data.loader_workers",
        "in the worker itself",
    ),
    BadSpec(
        "warmup in epochs of a stream",
        hugging_face("streaming: true, data_files: {train: recipe.py}")
        + "schedule: {name: cosine, warmup: {epochs: 1}}\n",
        "schedule.warmup.epochs",
        "no length",
    ),
]
