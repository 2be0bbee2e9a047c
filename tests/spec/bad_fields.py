"""Fields of the wrong type or value, unknown and missing ones."""

from spec.bad_spec import TRAIN, BadSpec, good, hugging_face

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
    BadSpec(
        "three betas", good("optimizer: {name: adamw, betas: [0.9, 0.9, 0.9]}"), "optimizer.betas", "too many entries"
    ),
    BadSpec("bad file name", hugging_face("data_files: {train: [3]}"), "data.source.data_files.train.0", "in quotes"),
    BadSpec(
        "line of a list item",
        good("optimizer:\n  betas:\n  - 0.9\n  - 1.9"),
        "optimizer.betas.1",
        "job.yaml:6: optimizer",
    ),
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
    BadSpec("priority", good("queue: {priority: high}"), "queue.priority", "Legal: an integer"),
    BadSpec("owner", good('queue: {owner: ""}'), "queue.owner", "not empty"),
]

KEYS = [
    BadSpec("unknown section", good("optimiser: {lr: 0.1}"), "optimiser", "unknown key"),
    BadSpec(
        "unknown key",
        good("optimizer: {name: adamw, lrr: 0.1}"),
        "optimizer.lrr",
        "job.yaml:3: optimizer.lrr = 0.1: unknown key. "
        "Legal: name, lr, weight_decay, decay_one_dimensional, param_groups, betas, eps, amsgrad. Did you mean 'lr'?",
    ),
    BadSpec("misspelt length", "recipe: {target: recipe.py:Tiny}\ntrain: {stpes: 8}\n", "train.stpes", "mean 'steps'?"),
    BadSpec(
        "misspelt momentum",
        good("optimizer: {name: sgd, nesterov: true, momentun: 0.9}"),
        "optimizer.momentun",
        "Did you mean 'momentum'?",
    ),
    BadSpec("method by name that needs arguments", good("data: {source: hugging_face}"), "data.source.path", "missing"),
    BadSpec("line break in a key", good('"a\\nb": 1'), "a\nb", r"a\nb = 1: unknown key"),
    BadSpec("terminal code in a value", good('"storages": "\\x9b31m"'), "storages", r'storages = "\x9b31m"'),
    BadSpec("key in the wrong place", good("lr: 0.1"), "lr", "Did you mean 'optimizer.lr'?"),
    BadSpec(
        "argument of another method", good("optimizer: {name: lamb, momentum: 0.9}"), "optimizer.momentum", "unknown"
    ),
    BadSpec("misspelt method", good("optimizer: {name: lmab}"), "optimizer.name", "Did you mean 'lamb'?"),
    BadSpec("misspelt method alone", good("optimizer: lmab"), "optimizer.name", "unknown optimizer"),
    BadSpec("unknown engine", good("engine: {name: fsdp9}"), "engine.name", "Legal: accelerate, ddp, deepspeed, fsdp2"),
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
