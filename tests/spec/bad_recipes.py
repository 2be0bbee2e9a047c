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

COUPLED = {"recipe.py": RECIPE.replace("class Tiny:", "class Tiny:\n    couples_samples = True")}
INHERITED = {
    "recipe.py": RECIPE.replace("class Tiny:", "class Both:\n    couples_samples: ClassVar[bool] = True")
    + "\n\nclass Tiny(Both):\n    def more(self): ...\n"
}

COMBINATIONS = [
    BadSpec(
        "coupled samples in micro-batches",
        good("batch: {global_size: 16, micro_size: 8}"),
        "batch.micro_size",
        "= 8: recipe.py:Tiny couples the samples of a batch (couples_samples), so a worker's share cannot be taken in "
        "pieces. Legal: null",
        files=COUPLED,
    ),
    BadSpec(
        "coupled samples in micro-batches that are to be found",
        good("batch: {global_size: 16, micro_size: auto}"),
        "batch.micro_size",
        "Legal: null",
        files=INHERITED,
    ),
    BadSpec(
        "coupled samples in a coded exchange",
        good("exchange: {name: coded, scheme: uncoded}\nresources: {workers: 2}"),
        "exchange.name",
        "here each part of a batch is computed by itself. Legal: all_reduce or delayed",
        files=COUPLED,
    ),
    BadSpec(
        "coupled samples in an asynchronous exchange",
        good("exchange: asynchronous\nresources: {workers: 2}"),
        "exchange.name",
        "Legal: all_reduce or delayed",
        files=COUPLED,
    ),
    BadSpec(
        "coupled samples in a sweep",
        good("exchange: {name: coded, scheme: uncoded}\nresources: {workers: 2}\nsweep: {optimizer.lr: [0.1, 0.2]}"),
        "exchange.name",
        "couples the samples of a batch",
        files=COUPLED,
    ),
    *(
        BadSpec(
            f"coupled samples under {name}",
            good(f"modulators: [{{name: {name}{arguments}}}]"),
            "modulators.0.name",
            f"and {name} takes gradients of a worker's own samples by themselves. Legal: no {name}",
            files=COUPLED,
        )
        for name, arguments in (("sam", ""), ("disadv", ", epsilon: 0.1"), ("conadv", ", epsilon: 0.1"))
    ),
    BadSpec(
        "coupled samples cut in a later phase",
        good("then: [{train: {steps: 2}, batch: {micro_size: 4}}]"),
        "then.0.batch.micro_size",
        "= 4: recipe.py:Tiny couples",
        files=COUPLED,
    ),
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
        "NVIDIA's LAMB without clipping",
        good("optimizer: {name: lamb, preset: nvlamb}"),
        "optimizer.preset",
        "clips gradients to a global norm, and the spec does not. Legal: train.clip_grad_norm: 1.0 beside it",
    ),
    BadSpec(
        "LARS that adapts nothing",
        good("optimizer: lars"),
        "optimizer.weight_decay",
        "so that none is. Legal: a number > 0, or adapt: all",
    ),
    BadSpec(
        "LAMB that adapts nothing",
        good("optimizer: {name: lamb, weight_decay: 0.0}"),
        "optimizer.weight_decay",
        "so that none is. Legal: a number > 0, or adapt: all",
    ),
    BadSpec(
        "LAWN that never begins",
        good("optimizer: {name: lawn, free_steps: 8}"),
        "optimizer.free_steps",
        "the training of 8 steps ends before norms are held. Legal: less than 8",
    ),
    BadSpec(
        "LAWN with a decay",
        good("optimizer: {name: lawn, free_steps: 2, param_groups: [{match: [x], weight_decay: 0.1}]}"),
        "optimizer",
        "takes no weight_decay in param_groups",
    ),
    BadSpec(
        "layers recorded where no line is",
        "recipe: {target: recipe.py:Tiny}\ntrain: {steps: 8, log_every: 10}\n"
        "optimizer: {name: lamb, log_layers_every: 15}\n",
        "optimizer.log_layers_every",
        "a line of metrics is written every 10 steps (train.log_every). Legal: a multiple of 10",
    ),
    BadSpec(
        "sde with several eps",
        good("optimizer: came\nscaling: {rule: sde, reference_batch: 64}"),
        "scaling.rule",
        "came has several eps",
    ),
    BadSpec(
        "second derivatives of a compiled model",
        "recipe: {target: recipe.py:Tiny}\ntrain: {steps: 8, compile: inductor}\noptimizer: adahessian\n",
        "optimizer.name",
        "takes second derivatives of the loss, which a compiled model has not. Legal: train.compile: null or eager",
    ),
    BadSpec(
        "second derivatives in fp16",
        "recipe: {target: recipe.py:Tiny}\ntrain: {steps: 8, precision: fp16}\noptimizer: adahessian\n",
        "optimizer.name",
        "which are beyond the range of fp16. Legal: train.precision: bf16 or fp32",
    ),
    BadSpec(
        "a range upside down",
        good("optimizer: {name: lamb, trust_ratio_range: [2.0, 1.0]}"),
        "optimizer.trust_ratio_range",
        "the smallest value 2.0 is above the largest, 1.0",
    ),
    BadSpec(
        "two ways to clip",
        "recipe: {target: recipe.py:Tiny}\ntrain: {steps: 8, clip_grad_norm: 1.0, auto_clip: {}}\n",
        "train",
        "at most one of clip_grad_norm, auto_clip",
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

ADAMW_SDE = "optimizer: {name: adamw}\nscaling: {rule: sde, reference_batch: 128}\n"


def phases(*later: str, lines: str = "") -> str:
    """A good spec of 128 samples per step for 8 steps, with these phases after it."""
    return good(f"{lines}then: [{', '.join(later)}]")


SCALING = [
    BadSpec("gain without noise scale", good("scaling: {rule: gain, reference_batch: 8}"), "scaling", "noise_scale"),
    BadSpec(
        "noise scale of another rule",
        good("scaling: {rule: sqrt, reference_batch: 8, noise_scale: 9.0}"),
        "scaling",
        "rule 'sqrt' reads no noise_scale",
    ),
    BadSpec(
        "betas below zero",
        good(ADAMW_SDE + "batch: {global_size: 2048}"),
        "batch.global_size",
        "rule sde makes beta 0.9 into 1 - k (1 - beta) = 1 - 16 x 0.1 = -0.6 with k = 2048 / 128 = 16; "
        "k (1 - beta) must be below 1. Legal: less than 1280, betas above 1 - 1/k = 0.9375, or scaling.rule: sqrt",
    ),
    # 10 x (1 - 0.9) is less than 1 in floating point.
    BadSpec("beta of zero", good(ADAMW_SDE + "batch: {global_size: 1280}"), "batch.global_size", "less than 1280"),
    BadSpec(
        "sde without averages",
        good("optimizer: sgd\nscaling: {rule: sde, reference_batch: 64}"),
        "scaling.rule",
        "sgd has no betas and no eps",
    ),
    BadSpec(
        "sde without a number for eps",
        good("optimizer: lamb\nscaling: {rule: sde, reference_batch: 64}"),
        "optimizer.eps",
        "null: rule sde divides it by k^0.5, k = 128 / 64 = 2. Legal: a number > 0",
    ),
    BadSpec(
        "steps that grow",
        good("schedule: {warmup: {steps: 2, scale_with_batch: true}}\nscaling: {reference_batch: 64}"),
        "schedule.warmup",
        "scale_with_batch needs a length in epochs, samples or fraction",
    ),
    BadSpec(
        "growing without a reference",
        good("schedule: {warmup: {samples: 2, scale_with_batch: true}}"),
        "scaling.reference_batch",
        "missing; schedule.warmup.scale_with_batch compares the batch with it",
    ),
    BadSpec(
        "warmup grown over the training",
        good("schedule: {warmup: {fraction: 0.6, scale_with_batch: true}}\nscaling: {reference_batch: 64}"),
        "schedule.warmup.fraction",
        "grown with the batch, 0.6 x 128 / 64 = 1.2 fraction, is longer than the whole training. Legal: at most 0.5",
    ),
]
PHASES = [
    BadSpec("phase without length", phases("{batch: {global_size: 8}}"), "then.0.train", "missing"),
    BadSpec("phase of two lengths", phases("{train: {steps: 1, epochs: 1}}"), "then.0.train", "exactly one of"),
    BadSpec("phase with a seed", phases("{train: {steps: 1, seed: 1}}"), "then.0.train.seed", "unknown key"),
    BadSpec("phase with an engine", phases("{train: {steps: 1}, engine: ddp}"), "then.0.engine", "unknown key"),
    BadSpec(
        "phase of another optimizer",
        phases("{train: {steps: 1}, optimizer: {name: sgd}}"),
        "then.0.optimizer.name",
        "unknown key",
    ),
    BadSpec("phase by itself", good("then: {train: {steps: 1}}"), "then", "a mapping. Legal: a list"),
    BadSpec(
        "schedule without name",
        phases("{train: {steps: 1}, schedule: {power: 2.0}}"),
        "then.0.schedule.name",
        "missing. Legal: constant, cosine, polynomial",
    ),
    BadSpec(
        "unknown schedule of a phase",
        phases("{train: {steps: 1}, schedule: polynomialy}"),
        "then.0.schedule.name",
        "Did you mean 'polynomial'?",
    ),
    BadSpec(
        "unknown key of a phase's schedule",
        phases("{train: {steps: 1}, schedule: {name: polynomial, pover: 2.0}}"),
        "then.0.schedule.pover",
        "Did you mean 'power'?",
    ),
    BadSpec(
        "impossible batch of a phase",
        phases(
            "{train: {steps: 1}}", "{train: {steps: 1}, batch: {global_size: 4}}", lines="resources: {workers: 8}\n"
        ),
        "then.1.batch.global_size",
        "= 4: 4 / 8 workers",
    ),
    BadSpec(
        "inherited warmup is longer",
        phases("{train: {steps: 3}}", lines="schedule: {warmup: {steps: 4}}\n"),
        "then.0.schedule.warmup.steps",
        "= 4: the warmup is longer than the training of 3 steps",
    ),
    BadSpec(
        "unknown argument of a phase",
        phases("{train: {steps: 1}, recipe: {args: {hiddn: 1}}}"),
        "then.0.recipe.args.hiddn",
        "Did you mean 'hidden'?",
    ),
    BadSpec(
        "betas of a phase below zero",
        phases("{train: {steps: 1}, batch: {global_size: 2048}}", lines=ADAMW_SDE),
        "then.0.batch.global_size",
        "rule sde makes beta 0.9",
    ),
    BadSpec(
        "phase against DeepSpeed's configuration",
        phases(
            "{train: {steps: 1}, batch: {global_size: 64}}",
            lines="engine: {name: deepspeed, config: {train_batch_size: 128}}\n",
        ),
        "engine.config.train_batch_size",
        "in the phase then.0: ",
    ),
]
