"""Overrides and bases that cannot be followed."""

from spec.bad_spec import GOOD, BadSpec, good

OVERRIDES = [
    BadSpec("override without value", GOOD, "", "is not an override", ("optimizer.lr",)),
    BadSpec("override of nothing", GOOD, "", "is not an override", ("=3",)),
    BadSpec("override with empty value", GOOD, "", "null for no value", ("storage=",)),
    BadSpec("override with empty key", GOOD, "", "is not an override", ("optimizer..lr=3",)),
    BadSpec(
        "override with bad yaml", GOOD, "storage", "--set: storage = @x: the value is not valid YAML", ("storage=@x",)
    ),
    BadSpec("override with tag", GOOD, "storage", "would construct an object", ("storage=!!python/none x",)),
    BadSpec(
        "override of unknown key", GOOD, "optimizer.lrr", "--set: optimizer.lrr = 0.1: unknown", ("optimizer.lrr=0.1",)
    ),
    BadSpec("override of unknown section", GOOD, "optimyzer", "--set: optimyzer = ", ("optimyzer.lr=0.1",)),
    BadSpec(
        "override inside a number",
        good("optimizer: {lr: 0.1}"),
        "optimizer.lr.x",
        "has no fields",
        ("optimizer.lr.x=1",),
    ),
    BadSpec(
        "override beyond a list",
        good("optimizer: {betas: [0.9, 0.9]}"),
        "optimizer.betas.2",
        "0 to 1",
        ("optimizer.betas.2=0.5",),
    ),
    BadSpec(
        "override of an item by name",
        good("optimizer: {betas: [0.9, 0.9]}"),
        "optimizer.betas.x",
        "no item x",
        ("optimizer.betas.x=0.5",),
    ),
    BadSpec("override of a missing list", GOOD, "optimizer.betas.0", "the whole list", ("optimizer.betas.0=0.5",)),
    BadSpec("override of base", GOOD, "base", "cannot be set", ("base=x.yaml",)),
    BadSpec("override of the wrong type", GOOD, "train.steps", "--set: train.steps", ("train.steps=many",)),
    BadSpec("override of a second length", GOOD, "train", "null takes back", ("train.epochs=1",)),
    BadSpec(
        "override with a shorter list",
        good("optimizer: {betas: [0.9, 0.9]}"),
        "optimizer.betas.1",
        "--set: optimizer.betas.1: missing",
        ("optimizer.betas=[0.9]",),
    ),
]

BASES = [
    BadSpec("missing base", good("base: ../cpu.yaml"), "base", 'job.yaml:3: base = "../cpu.yaml": no such file'),
    BadSpec("base is a list", good("base: [a, b]"), "base", "not a path"),
    BadSpec("base is itself", good("base: job.yaml"), "base", "a cycle of bases: job.yaml -> job.yaml"),
    BadSpec(
        "cycle of bases",
        good("base: a.yaml"),
        "base",
        "job.yaml -> a.yaml -> b.yaml -> a.yaml",
        files={"a.yaml": "base: b.yaml\n", "b.yaml": "base: a.yaml\n"},
    ),
    BadSpec("base is no yaml", good("base: a.yaml"), "", "a.yaml:2: is not valid YAML", files={"a.yaml": "a: [\n"}),
    BadSpec(
        "unknown key in base",
        good("base: a.yaml"),
        "optimizer.lrr",
        "a.yaml:2: optimizer.lrr",
        files={"a.yaml": "# base\noptimizer: {lrr: 1.0}\n"},
    ),
    BadSpec(
        "duplicate key in base",
        good("base: a.yaml"),
        "env.A",
        "a.yaml:1: env.A: duplicate",
        files={"a.yaml": "env: {A: x, A: y}\n"},
    ),
    BadSpec(
        "shorter list than in the base",
        good("base: a.yaml\noptimizer: {betas: [0.9]}"),
        "optimizer.betas.1",
        "job.yaml:4: optimizer.betas.1: missing",
        files={"a.yaml": "optimizer: {betas: [0.9, 0.9]}\n"},
    ),
]
