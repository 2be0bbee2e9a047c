"""Sweeps that cannot be: of the wrong form, or with trials that are wrong themselves."""

from spec.bad_spec import BadSpec, good


def swept(lists: str, lines: str = "") -> str:
    """A good spec whose workers several models can share, with a sweep and more lines."""
    return good(f"resources: {{workers: 4}}\nexchange: coded\nsweep: {lists}\n{lines}")


SEQUENTIAL = "resources: {workers: 4}\nexchange: {name: coded, scheme: m_sgc, window: 3}\n"

SWEEP_FORMS = [
    BadSpec("a sweep that is a list", swept("[optimizer.lr]"), "sweep", "a list. Legal: a mapping"),
    BadSpec(
        "one value to sweep over",
        swept("{optimizer.lr: 0.1}"),
        "sweep.optimizer.lr",
        "= 0.1: not a list. Legal: a list of values",
    ),
    BadSpec("nothing to sweep over", swept("{optimizer.lr: []}"), "sweep.optimizer.lr", "an empty list. Legal: a list"),
    BadSpec(
        "a sweep by sections",
        swept("{optimizer: {lr: [0.1]}}"),
        "sweep.optimizer",
        "a mapping, not a list; a path is one key with dots in it",
    ),
    BadSpec("a grid of nothing", swept("{grid: {}}"), "sweep.grid", "has no lists by dotted path"),
    BadSpec("a zip that is a list", swept("{zip: [1, 2]}"), "sweep.zip", "Legal: a mapping of dotted paths"),
    BadSpec(
        "a grid beside a path",
        swept("{train.seed: [1], grid: {optimizer.lr: [0.1]}}"),
        "sweep.grid",
        "grid stands beside train.seed. Legal: grid, zip or random around all paths",
    ),
    BadSpec("grid and zip", swept("{zip: {train.seed: [1]}, grid: {optimizer.lr: [1]}}"), "sweep.grid", "beside zip"),
    BadSpec(
        "lists of unequal length side by side",
        swept("{zip: {optimizer.lr: [0.1, 0.2], train.seed: [1]}}"),
        "sweep.zip",
        "optimizer.lr has 2, train.seed has 1. Legal: lists of equal length",
    ),
    BadSpec(
        "a sweep over workers",
        swept("{resources.workers: [4, 8]}"),
        "sweep.resources.workers",
        "is the whole job's and cannot differ between trials. Legal: paths in recipe, train, batch",
    ),
    BadSpec("a sweep over sweeps", swept("{sweep.train.seed: [[4, 8]]}"), "sweep.sweep.train.seed", "whole job's"),
    BadSpec(
        "a sweep over a misspelt section",
        swept("{optimizers.lr: [0.1, 0.2]}"),
        "sweep.optimizers.lr",
        "unknown field. Legal: paths in recipe, train, batch, optimizer, schedule, scaling, then, data. "
        "Did you mean 'optimizer'?",
    ),
    BadSpec("a path with two dots", swept("{optimizer..lr: [0.1]}"), "sweep.optimizer..lr", "is not a dotted path"),
    BadSpec(
        "a sweep over a method's name",
        swept("{zip: {schedule.name: [cosine, polynomial]}}"),
        "sweep.zip.schedule.name",
        "Legal: whole methods: schedule: [NAME, {name: NAME, ...}]",
    ),
    BadSpec(
        "too many combinations",
        swept("{train.seed: [0, 1, 2, 3, 4, 5, 6, 7, 8], optimizer.lr: [1, 2, 3, 4, 5, 6, 7, 8]}"),
        "sweep",
        "9 x 8 = 72 trials. Legal: at most 64",
    ),
    BadSpec(
        "too many trials", swept(f"{{grid: {{train.seed: {[*range(65)]}}}}}"), "sweep.grid", "65 trials. Legal: at most"
    ),
    BadSpec(
        "a sweep on the command line by sections",
        swept("{}"),
        "sweep.train",
        "one key with dots",
        ("sweep.train.seed=[1]",),
    ),
]

SWEEP_TRIALS = [
    BadSpec(
        "an illegal value in a sweep",
        swept("\n  train.seed: [0, 1]\n  optimizer.lr:\n  - 0.1\n  - -0.5"),
        "sweep.optimizer.lr.1",
        "job.yaml:9: sweep.optimizer.lr.1 = -0.5: out of range. Legal: a number > 0",
    ),
    BadSpec(
        "a sweep over illegal values only",
        swept("{optimizer.lr: [-1.0, 0.0]}"),
        "sweep.optimizer.lr",
        "= [-1.0, 0.0]: out of range",
    ),
    BadSpec(
        "an illegal value in a zip",
        swept("{zip: {optimizer.lr: [0.1, many], train.seed: [0, 1]}}"),
        "sweep.zip.optimizer.lr.1",
        "a string. Legal: a number > 0",
    ),
    BadSpec(
        "a sweep over an unknown field",
        swept("{optimizer.lrr: [0.1, 0.2]}"),
        "sweep.optimizer.lrr",
        "= [0.1, 0.2]: unknown key",
    ),
    BadSpec(
        "an unknown method in a sweep",
        swept("{optimizer: [sgd, {name: lamb, lr: 0.1}, lmab]}"),
        "sweep.optimizer.2.name",
        "Did you mean 'lamb'?",
    ),
    BadSpec(
        "an unknown argument of a method in a sweep",
        swept("{optimizer: [{name: sgd, lrr: 0.1}, {name: lamb, lr: 0.1}]}"),
        "sweep.optimizer.0.lrr",
        "Did you mean 'lr'?",
    ),
    BadSpec(
        "a sweep inside a number", swept("{train.steps.foo: [1, 2]}"), "sweep.train.steps.foo", "8, which has no fields"
    ),
    BadSpec(
        "a sweep over a phase that is not there",
        swept("{then.0.train.steps: [1]}"),
        "sweep.then.0.train.steps",
        "then has no item 0",
    ),
    BadSpec(
        "a sweep over another length than the spec's",
        swept("{train.epochs: [1, 2]}"),
        "sweep.train.epochs",
        "got steps, epochs",
    ),
    BadSpec(
        "a batch in a sweep that is too small",
        swept("{batch.global_size: [64, 2], train.seed: [0, 1]}"),
        "sweep.batch.global_size.1",
        "= 2: 2 / 4 workers",
    ),
    BadSpec(
        "an unknown argument of the recipe in a sweep",
        swept("{recipe.args.hidde: [2, 3]}"),
        "sweep.recipe.args.hidde",
        "Did you mean 'hidden'?",
    ),
    BadSpec(
        "a phase in a sweep that is too long",
        swept("{then.0.batch.global_size: [8, 2]}", "then: [{train: {steps: 2}}]"),
        "sweep.then.0.batch.global_size.1",
        "2 / 4 workers",
    ),
    BadSpec(
        "a field that does not go with one trial",
        swept("{train.seed: [0, 1], train.steps: [2, 80]}", "schedule: {warmup: {steps: 9}}"),
        "schedule.warmup.steps",
        "= 9: in trial 0 (train.seed = 0, train.steps = 2): the warmup is longer",
    ),
    BadSpec(
        "a field that goes with no trial",
        swept("{train.seed: [0, 1]}", "data: {loader_workers: 2}"),
        "data.loader_workers",
        "data.loader_workers = 2: workers are told",
    ),
    BadSpec(
        "the same value twice",
        swept("{optimizer.lr: [0.1, 1e-1], train.seed: [0, 1]}"),
        "sweep.optimizer.lr.1",
        "makes trial 2 the same as trial 0. Legal: trials that differ",
    ),
    BadSpec(
        "the same trial twice",
        swept("{zip: {optimizer.lr: [0.1, 0.2, 0.1], train.seed: [0, 1, 0]}}"),
        "sweep.zip.train.seed.2",
        "makes trial 2 the same as trial 0",
    ),
    BadSpec(
        "a value that a later one replaces",
        swept("{optimizer.lr: [0.1, 0.2], optimizer: [sgd]}"),
        "sweep.optimizer.lr.1",
        "makes trial 1 the same as trial 0",
    ),
    BadSpec(
        "too few models for a sequential code",
        good(f"{SEQUENTIAL}sweep: {{train.seed: [0, 1]}}"),
        "exchange.scheme",
        "decodes a step up to 2 rounds after its own, so 3 or more models must share the workers; this sweep has 2. "
        "Legal: a sweep of 3 or more trials, or fractional, cyclic",
    ),
]
