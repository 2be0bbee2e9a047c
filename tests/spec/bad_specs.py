"""Specs that must be refused, each for a reason that the user can read: shared by the tests of spec and cli.

Every spec lies in a folder ``jobs/tiny`` beside a good recipe, is called ``job.yaml``, and has exactly the fault
that its id names.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

RECIPE = """
class Tiny:
    def __init__(self, hidden: int = 4, *, depth: int = 1) -> None:
        self.hidden = hidden

    def build_model(self): ...

    def build_datasets(self): ...

    def loss(self, model, batch): ...
"""
GOOD = "recipe: {target: recipe.py:Tiny}\ntrain: {steps: 8}\n"
TRAIN = "train: {steps: 8}\n"
METHODS = ("build_model(self)", "build_datasets(self)", "loss(self, model, batch)")


@dataclass(frozen=True)
class BadSpec:
    """One faulty spec."""

    id: str
    text: str | bytes
    """Contents of ``job.yaml``."""
    path: str
    """Dotted path that a problem must name; empty for the file as a whole."""
    message: str
    """What the problem must say, anywhere in its line."""
    overrides: tuple[str, ...] = ()
    files: dict[str, str | bytes] = field(default_factory=dict)
    """More files, relative to the spec's folder."""

    def write(self, folder: Path) -> Path:
        """Write everything below a folder and return the spec's file."""
        job = folder / "jobs" / "tiny"
        for name, content in {"recipe.py": RECIPE, "job.yaml": self.text, **self.files}.items():
            path = job / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        return job / "job.yaml"


def good(lines: str) -> str:
    """A good spec with these lines below."""
    return f"{GOOD}{lines}\n"


def class_with(*methods: str, head: str = "class Tiny:") -> str:
    """Source of a recipe with these methods only."""
    return head + "".join(f"\n    def {method}: ..." for method in methods) + "\n"


def hugging_face(fields: str) -> str:
    """A good spec that reads local JSON files."""
    return good(f"data: {{source: {{name: hugging_face, path: json, {fields}}}}}")


FILES = [
    BadSpec("empty file", "", "", "is empty"),
    BadSpec("comments only", "# nothing\n", "", "is empty"),
    BadSpec("10 MB file", b"# " + b"x" * 10_000_000, "", "too large"),
    BadSpec("not utf-8", GOOD.encode() + b"name: caf\xe9\n", "", "job.yaml:3: is not UTF-8: byte 0xe9"),
    BadSpec("utf-16", GOOD.encode("utf-16"), "", "is not UTF-8"),
    BadSpec("control character", good("storage: a\x01b"), "", "job.yaml:3: has a character that YAML does not allow"),
    BadSpec("yaml syntax", good("batch: {global_size: 8"), "", "is not valid YAML"),
    BadSpec("tab indentation", "train:\n\tsteps: 8\n", "", "job.yaml:2: is not valid YAML"),
    BadSpec("unterminated string", good("storage: 'abc"), "", "is not valid YAML"),
    BadSpec("impossible escape", good('storage: "\\UFFFFFFFF"'), "", "is not valid YAML"),
    BadSpec("undefined alias", good("storage: *nowhere"), "", "undefined alias"),
    BadSpec("root is a list", "- recipe\n- train\n", "", "is a list"),
    BadSpec("root is a string", "hello\n", "", "is a single value"),
    BadSpec("several documents", f"{GOOD}---\n{GOOD}", "", "job.yaml:3: has several documents"),
    BadSpec("yaml 1.1 directive", f"%YAML 1.1\n---\n{GOOD}", "", "YAML 1.2"),
    BadSpec("nested too deeply", good(f"env: {'[' * 2000}"), "", "nested more than 50 levels"),
    BadSpec("endless list", good(f"env: [{'1,' * 30_000}]"), "", "more than 20,000 keys and values"),
    BadSpec(
        "alias bomb",
        "a0: &a0 [x, x, x, x, x, x, x, x]\n"
        + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 8)}]\n" for i in range(1, 9)),
        "",
        "more than 20,000 keys and values once its aliases are expanded",
    ),
    BadSpec(
        "aliases stacked deep",
        f"a: &a {'[' * 30}{']' * 30}\nb: {'[' * 30}*a{']' * 30}\n",
        "",
        "50 levels deep once its aliases are expanded",
    ),
]

YAML_VALUES = [
    BadSpec("duplicate key", good("optimizer: {lr: 0.1, lr: 0.2}"), "optimizer.lr", "duplicate key, first on line 3"),
    BadSpec("duplicate section", good(TRAIN), "train", "job.yaml:3: train: duplicate key, first on line 2"),
    BadSpec("python object tag", good("env: !!python/object/apply:os.system [ls]"), "env", "would construct an object"),
    BadSpec("python name tag", good("storage: !!python/name:os.system"), "storage", "would construct an object"),
    BadSpec("custom tag", good("storage: !secret x"), "storage", "tag !secret would construct an object"),
    BadSpec("binary tag", good("storage: !!binary aGVsbG8="), "storage", "!!binary"),
    BadSpec("tag that does not fit", good("batch: {global_size: !!int many}"), "batch.global_size", "not a legal int"),
    BadSpec("merge key", good("optimizer: {<<: {lr: 0.1}}"), "optimizer.<<", "merge keys are not YAML 1.2"),
    BadSpec("alias of itself", good("env: &e {A: *e}"), "env.A", "contains itself"),
    BadSpec("key is a number", good("env: {1: a}"), "env", 'key "1" is not a string'),
    BadSpec("key is a boolean", good("env: {true: a}"), "env", 'key "true" is not a string'),
    BadSpec("key is a list", good("env: {[a]: b}"), "env", "is not a string"),
    BadSpec("infinite", good("optimizer: {lr: .inf}"), "optimizer.lr", "not a finite number"),
    BadSpec("not a number", good("optimizer: {lr: .nan}"), "optimizer.lr", "not a finite number"),
    BadSpec("overflowing float", good("optimizer: {lr: 1e999}"), "optimizer.lr", "not a finite number"),
    BadSpec("overflowing integer", good(f"batch: {{global_size: 1{'0' * 30}}}"), "batch.global_size", "64-bit"),
    BadSpec("null character", good('storage: "a\\0b"'), "storage", "null character"),
    BadSpec("half a surrogate", good('storage: "\\uD800"'), "storage", "surrogate"),
]

TYPES = [
    BadSpec("number as string", good('batch: {global_size: "128"}'), "batch.global_size", "write it without quotes"),
    BadSpec("word for a number", good("batch: {global_size: many}"), "batch.global_size", "an integer >= 1"),
    BadSpec("boolean for a number", good("batch: {global_size: true}"), "batch.global_size", "a boolean"),
    BadSpec("float for an integer", good("batch: {global_size: 1e3}"), "batch.global_size", "write 1000"),
    BadSpec("yes for a boolean", good("optimizer: {name: sgd, nesterov: yes}"), "optimizer.nesterov", "write true"),
    BadSpec("one for a boolean", good("optimizer: {name: sgd, nesterov: 1}"), "optimizer.nesterov", "true or false"),
    BadSpec("number for a string", good("storage: 12"), "storage", "write it in quotes"),
    BadSpec("number in the environment", good("env: {A: 1}"), "env.A", "write it in quotes"),
    BadSpec("illegal variable", good("env: {A=B: x}"), "env.A=B", "of the form"),
    BadSpec("null for a number", good("batch: {global_size: null}"), "batch.global_size", "null"),
    BadSpec("list for a section", good("batch: [1]"), "batch", "a mapping of global_size"),
    BadSpec("number for a method", good("optimizer: 3"), "optimizer", "a method's name, or a mapping"),
    BadSpec("name is a list", good("optimizer: {name: [lamb]}"), "optimizer.name", "unknown optimizer"),
    BadSpec("one beta", good("optimizer: {betas: [0.9]}"), "optimizer.betas.1", "missing"),
    BadSpec("three betas", good("optimizer: {betas: [0.9, 0.9, 0.9]}"), "optimizer.betas", "too many entries"),
    BadSpec("bad file name", hugging_face("data_files: {train: [3]}"), "data.source.data_files.train.0", "in quotes"),
    BadSpec("bad files", hugging_face("data_files: {train: 3}"), "data.source.data_files.train", "or a list"),
]

VALUES = [
    BadSpec(
        "batch of nothing", good("batch: {global_size: 0}"), "batch.global_size", "out of range. Legal: an integer >="
    ),
    BadSpec("negative rate", good("optimizer: {lr: -0.1}"), "optimizer.lr", "a number > 0"),
    BadSpec("beta of one", good("optimizer: {betas: [0.9, 1.0]}"), "optimizer.betas.1", ">= 0 and < 1"),
    BadSpec(
        "huge seed", "recipe: {target: recipe.py:Tiny}\ntrain: {steps: 8, seed: 4294967296}\n", "train.seed", "range"
    ),
    BadSpec("two gpus", good("resources: {gpus_per_worker: 2}"), "resources.gpus_per_worker", "<= 1"),
    BadSpec(
        "unknown precision",
        "recipe: {target: recipe.py:Tiny}\ntrain: {steps: 8, precision: fp17}\n",
        "train.precision",
        "Legal: fp32, bf16, fp16. Did you mean 'fp16'?",
    ),
    BadSpec("upper-case name", good("name: Tiny"), "name", "of the form"),
    BadSpec("name with a path", good("name: ../tiny"), "name", "of the form"),
    BadSpec("long name", good(f"name: {'a' * 64}"), "name", "of the form"),
    BadSpec("empty experiment", good('tracking: {experiment: ""}'), "tracking.experiment", "not empty"),
    BadSpec("priority", good("queue: {priority: 3}"), "queue.priority", "Legal: 0"),
    BadSpec("owner", good("queue: {owner: me}"), "queue.owner", "Legal: null"),
    BadSpec("a modulator", good("modulators: [{name: sam}]"), "modulators", "an empty list"),
    BadSpec("a sweep", good("sweep: {optimizer.lr: [0.1]}"), "sweep", "an empty mapping"),
]

KEYS = [
    BadSpec("unknown section", good("optimiser: {lr: 0.1}"), "optimiser", "unknown key"),
    BadSpec(
        "unknown key",
        good("optimizer: {name: adamw, lrr: 0.1}"),
        "optimizer.lrr",
        "job.yaml:3: optimizer.lrr = 0.1: unknown key. "
        "Legal: name, lr, decay_one_dimensional, betas, eps, weight_decay, amsgrad. Did you mean 'lr'?",
    ),
    BadSpec("key in the wrong place", good("lr: 0.1"), "lr", "Did you mean 'optimizer.lr'?"),
    BadSpec(
        "argument of another method", good("optimizer: {name: lamb, momentum: 0.9}"), "optimizer.momentum", "unknown"
    ),
    BadSpec("misspelt method", good("optimizer: {name: lmab}"), "optimizer.name", "Did you mean 'lamb'?"),
    BadSpec("misspelt method alone", good("optimizer: lmab"), "optimizer.name", "unknown optimizer"),
    BadSpec("unknown engine", good("engine: {name: fsdp9}"), "engine.name", "unknown engine. Legal: ddp"),
    BadSpec("unknown source", good("data: {source: {name: web}}"), "data.source.name", "recipe"),
    BadSpec("unknown exchange", good("exchange: gossip"), "exchange.name", "all_reduce"),
    BadSpec("unknown controller", good("batch: {controller: nois_scale}"), "batch.controller.name", "constant"),
    BadSpec("no recipe", TRAIN, "recipe", "missing"),
    BadSpec("no target", f"{TRAIN}recipe: {{args: {{}}}}\n", "recipe.target", "missing. Legal: a string of the form"),
    BadSpec("no train", "recipe: {target: recipe.py:Tiny}\n", "train", "missing"),
    BadSpec("no path of a data set", good("data: {source: {name: hugging_face}}"), "data.source.path", "missing"),
    BadSpec(
        "steps and epochs",
        "recipe: {target: recipe.py:Tiny}\ntrain: {steps: 8, epochs: 1}\n",
        "train",
        "needs exactly one of steps, epochs, samples; got steps, epochs",
    ),
    BadSpec("no length", "recipe: {target: recipe.py:Tiny}\ntrain: {seed: 8}\n", "train", "got none"),
    BadSpec(
        "two warmups", good("schedule: {warmup: {steps: 1, epochs: 1}}"), "schedule.warmup", "needs exactly one of"
    ),
    BadSpec("rule without reference", good("scaling: {rule: sqrt}"), "scaling", "needs reference_batch"),
]

OVERRIDES = [
    BadSpec("override without value", GOOD, "", "is not an override", ("optimizer.lr",)),
    BadSpec("override of nothing", GOOD, "", "is not an override", ("=3",)),
    BadSpec("override with empty value", GOOD, "", "null for no value", ("storage=",)),
    BadSpec("override with empty key", GOOD, "", "is not an override", ("optimizer..lr=3",)),
    BadSpec("override with bad yaml", GOOD, "storage", "--set: storage = @x: the value is not valid YAML", ("storage=@x",)),
    BadSpec("override with tag", GOOD, "storage", "would construct an object", ("storage=!!python/none x",)),
    BadSpec("override of unknown key", GOOD, "optimizer.lrr", "--set: optimizer.lrr = 0.1: unknown", ("optimizer.lrr=0.1",)),
    BadSpec("override of unknown section", GOOD, "optimzer", "--set: optimzer = ", ("optimzer.lr=0.1",)),
    BadSpec("override inside a number", good("optimizer: {lr: 0.1}"), "optimizer.lr.x", "has no fields", ("optimizer.lr.x=1",)),
    BadSpec("override beyond a list", good("optimizer: {betas: [0.9, 0.9]}"), "optimizer.betas.2", "0 to 1",
            ("optimizer.betas.2=0.5",)),
    BadSpec("override of an item by name", good("optimizer: {betas: [0.9, 0.9]}"), "optimizer.betas.x", "no item x",
            ("optimizer.betas.x=0.5",)),
    BadSpec("override of a missing list", GOOD, "optimizer.betas.0", "the whole list", ("optimizer.betas.0=0.5",)),
    BadSpec("override of base", GOOD, "base", "cannot be set", ("base=x.yaml",)),
    BadSpec("override of the wrong type", GOOD, "train.steps", "--set: train.steps", ("train.steps=many",)),
    BadSpec("override of a second length", GOOD, "train", "null takes back", ("train.epochs=1",)),
]  # fmt: skip

BASES = [
    BadSpec("missing base", good("base: ../cpu.yaml"), "base", "job.yaml:3: base = \"../cpu.yaml\": no such file"),
    BadSpec("base is a list", good("base: [a, b]"), "base", "not a path"),
    BadSpec("base is itself", good("base: job.yaml"), "base", "a cycle of bases: job.yaml -> job.yaml"),
    BadSpec("cycle of bases", good("base: a.yaml"), "base", "job.yaml -> a.yaml -> b.yaml -> a.yaml",
            files={"a.yaml": "base: b.yaml\n", "b.yaml": "base: a.yaml\n"}),
    BadSpec("base is no yaml", good("base: a.yaml"), "", "a.yaml:2: is not valid YAML", files={"a.yaml": "a: [\n"}),
    BadSpec("unknown key in base", good("base: a.yaml"), "optimizer.lrr", "a.yaml:2: optimizer.lrr",
            files={"a.yaml": "# base\noptimizer: {lrr: 1.0}\n"}),
    BadSpec("duplicate key in base", good("base: a.yaml"), "env.A", "a.yaml:1: env.A: duplicate",
            files={"a.yaml": "env: {A: x, A: y}\n"}),
]  # fmt: skip

RECIPES = [
    BadSpec("missing recipe file", f"recipe: {{target: recpe.py:Tiny}}\n{TRAIN}", "recipe.target",
            "Did you mean 'recipe.py:Tiny'?"),
    BadSpec("target without class", f"recipe: {{target: recipe.py}}\n{TRAIN}", "recipe.target", "of the form"),
    BadSpec("target outside", f"recipe: {{target: ../tiny/recipe.py:Tiny}}\n{TRAIN}", "recipe.target", "outside the spec's"),
    BadSpec("absolute target", f"recipe: {{target: /tmp/recipe.py:Tiny}}\n{TRAIN}", "recipe.target", "outside the spec's"),
    BadSpec("target is a folder", f"recipe: {{target: sub.py:Tiny}}\n{TRAIN}", "recipe.target", "no such file",
            files={"sub.py/recipe.py": RECIPE}),
    BadSpec("target is a path without py", f"recipe: {{target: sub/recipe:Tiny}}\n{TRAIN}", "recipe.target",
            "neither a .py file nor a module", files={"sub/recipe.py": RECIPE}),
    BadSpec("roundabout target", f"recipe: {{target: ./recipe.py:Tiny}}\n{TRAIN}", "recipe.target",
            "Did you mean 'recipe.py:Tiny'?"),
    BadSpec("dots in the file name", f"recipe: {{target: my.recipe.py:Tiny}}\n{TRAIN}", "recipe.target", "dot in its name",
            files={"my.recipe.py": RECIPE}),
    BadSpec("recipe named like a library", f"recipe: {{target: json.py:Tiny}}\n{TRAIN}", "recipe.target", "library json",
            files={"json.py": RECIPE}),
    BadSpec("missing module", f"recipe: {{target: no_such_module:Tiny}}\n{TRAIN}", "recipe.target", "no module no_such"),
    BadSpec("missing submodule", f"recipe: {{target: email.no_such:Tiny}}\n{TRAIN}", "recipe.target", "no module email.no"),
    BadSpec("target is no module", f"recipe: {{target: 'my-module:Tiny'}}\n{TRAIN}", "recipe.target", "neither a .py file"),
    BadSpec("missing class of a module", f"recipe: {{target: email.message:Massage}}\n{TRAIN}", "recipe.target",
            "Did you mean 'email.message:Message'?"),
    BadSpec("recipe does not parse", GOOD, "recipe.target", "not valid Python: line 1", files={"recipe.py": "class :\n"}),
    BadSpec("recipe is not utf-8", GOOD, "recipe.target", "not valid Python", files={"recipe.py": b"x = '\xe9'\n"}),
    BadSpec("recipe has null bytes", GOOD, "recipe.target", "not valid Python", files={"recipe.py": b"x = 1\0\n"}),
    BadSpec("recipe nests too deeply", GOOD, "recipe.target", "not valid Python",
            files={"recipe.py": "x = " + "-" * 100_000 + "1\n"}),
    BadSpec("missing class", f"recipe: {{target: recipe.py:Tinny}}\n{TRAIN}", "recipe.target", "Did you mean 'recipe.py:Tiny'?"),
    BadSpec("no class at all", GOOD, "recipe.target", "defines no class", files={"recipe.py": "x = 1\n"}),
    BadSpec("class is a function", GOOD, "recipe.target", "is a function", files={"recipe.py": "def Tiny(): ...\n"}),
    BadSpec("class without loss", GOOD, "recipe.target", "has no loss(model, batch)",
            files={"recipe.py": class_with(*METHODS[:2])}),
    BadSpec("class without model", GOOD, "recipe.target", "has no build_model()",
            files={"recipe.py": class_with(*METHODS[1:])}),
    BadSpec("class without data", GOOD, "recipe.target", "has no build_datasets()",
            files={"recipe.py": class_with(METHODS[0], METHODS[2])}),
    BadSpec("protocol without loss", GOOD, "recipe.target", "has no loss(model, batch)",
            files={"recipe.py": class_with(*METHODS[:2], head="import typing\nclass Tiny(typing.Protocol[int], object):")}),
    BadSpec("misspelt argument", f"recipe: {{target: recipe.py:Tiny, args: {{hiden: 3}}}}\n{TRAIN}", "recipe.args.hiden",
            "Legal: hidden, depth. Did you mean 'hidden'?"),
    BadSpec("argument for none", f"recipe: {{target: recipe.py:Tiny, args: {{a: 1}}}}\n{TRAIN}", "recipe.args.a",
            "the class takes no arguments", files={"recipe.py": class_with(*METHODS)}),
    BadSpec("missing argument", GOOD, "recipe.args.hidden", "the class needs hidden",
            files={"recipe.py": class_with("__init__(self, hidden, depth=1)", *METHODS)}),
    BadSpec("missing field", GOOD, "recipe.args.hidden", "missing",
            files={"recipe.py": class_with(*METHODS, head="@dataclass\nclass Tiny:\n    hidden: int\n    depth: int = 1")}),
]  # fmt: skip

COMBINATIONS = [
    BadSpec("impossible batch", good("batch: {global_size: 4}\nresources: {workers: 8}"), "batch.global_size",
            "4 / 8 workers = 0.5 samples per worker; each needs at least 1. Legal: 8 or more"),
    BadSpec("warmup longer than training", good("schedule: {warmup: {steps: 9}}"), "schedule.warmup.steps", "at most 8"),
    BadSpec("nesterov without momentum", good("optimizer: {name: sgd, nesterov: true}"), "optimizer.momentum", "needs momentum"),
    BadSpec("nesterov with dampening", good("optimizer: {name: sgd, nesterov: true, momentum: 0.9, dampening: 0.1}"),
            "optimizer.dampening", "no dampening"),
    BadSpec("missing data file", hugging_face("data_files: {train: a.json}"), "data.source.data_files.train", "no such file"),
    BadSpec("empty glob", hugging_face("data_files: {train: [data/*.json]}"), "data.source.data_files.train.0", "no such file"),
    BadSpec("no data files", hugging_face("train_split: train"), "data.source.data_files", "json reads files"),
    BadSpec("empty list of files", hugging_face("data_files: {train: []}"), "data.source.data_files.train", "no files"),
    BadSpec("split without files", hugging_face("data_files: {train: recipe.py}, eval_split: 'tran[:10%]'"),
            "data.source.eval_split", "Did you mean 'train'?"),
    BadSpec("option that is a field", hugging_face("data_files: {train: recipe.py}, options: {split: train}"),
            "data.source.options.split", "train_split"),
]  # fmt: skip

BAD_SPECS: list[BadSpec] = [
    *FILES, *YAML_VALUES, *TYPES, *VALUES, *KEYS, *OVERRIDES, *BASES, *RECIPES, *COMBINATIONS
]  # fmt: skip
