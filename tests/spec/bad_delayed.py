"""Delayed exchanges, compensations and modulators that do not go with the rest of the job."""

from spec.bad_spec import BadSpec, good, hugging_face

SGD = "optimizer: {name: sgd, momentum: 0.9}\n"
HEAD = "update,worker,chunk,read_version\n"
EIGHT = HEAD + "".join(f"{u},0,{u},{max(0, u - 1)}\n" for u in range(8))
SIXTEEN = HEAD + "".join(f"{k // 2},{k % 2},{k},{k // 2}\n" for k in range(16))


def delayed(fields: str, more: str = SGD) -> str:
    """A good spec but for its delayed exchange."""
    return good(f"exchange: {{name: delayed, {fields}}}\n{more}")


def ordered(more: str = SGD, fields: str = "order: o.csv") -> str:
    return delayed(fields, more)


DELAYED = [
    BadSpec("no delay", delayed("weights: consistent"), "exchange", "exactly one of steps, order; got none"),
    BadSpec(
        "two delays", delayed("steps: 2, order: o.csv"), "exchange", "exactly one of steps, order; got steps, order"
    ),
    BadSpec("no order", ordered(), "exchange.order", "cannot be read"),
    BadSpec(
        "an order of another training",
        ordered(),
        "exchange.order",
        "names 7 chunks; the training has 8, from 0 to 7",
        files={"o.csv": EIGHT.removesuffix("7,0,7,6\n")},
    ),
    BadSpec(
        "an order of an unknown length",
        ordered().replace("train: {steps: 8}", "train: {epochs: 1}"),
        "exchange.order",
        "is not known before the data is read. Legal: null, or train.steps",
        files={"o.csv": EIGHT},
    ),
    BadSpec(
        "an order with loaders",
        ordered(f"{SGD}data: {{loader_workers: 1}}\n"),
        "data.loader_workers",
        "which loaders do not know. Legal: 0",
        files={"o.csv": EIGHT},
    ),
    BadSpec(
        "an order of a stream",
        hugging_face("data_files: {train: a.json}, streaming: true") + "exchange: {name: delayed, order: o.csv}\n",
        "data.source.streaming",
        "which a stream cannot give. Legal: false",
        files={"a.json": "{}", "o.csv": EIGHT},
    ),
    BadSpec(
        "pushes that do not divide the batch",
        ordered(f"{SGD}batch: {{global_size: 33}}\n"),
        "batch.global_size",
        "33 / 2 pushes of each update of exchange.order = 16.5 samples each. Legal: a multiple of 2",
        files={"o.csv": SIXTEEN},
    ),
    BadSpec(
        "several pushes to compensate",
        ordered(fields="order: o.csv, compensation: dana_zero"),
        "exchange.compensation.name",
        "needs one push to an update; exchange.order has 2. Legal: staleness_aware",
        files={"o.csv": SIXTEEN},
    ),
    BadSpec(
        "a forward of other types",
        delayed("steps: 2, weights: inconsistent").replace("{steps: 8}", "{steps: 8, precision: bf16}"),
        "train.precision",
        "keeps copies of the weights, which exchange.weights: inconsistent changes",
    ),
    BadSpec(
        "a compiled forward",
        delayed("steps: 2, weights: inconsistent").replace("{steps: 8}", "{steps: 8, compile: eager}"),
        "train.compile",
        "Legal: null, or exchange.weights: consistent",
    ),
    BadSpec(
        "a forward in the backward",
        delayed("steps: 2, weights: inconsistent").replace("{steps: 8}", "{steps: 8, activation_checkpointing: {}}"),
        "train.activation_checkpointing",
        "runs forwards in the backward",
    ),
    BadSpec(
        "second derivatives of two weights",
        delayed("steps: 2, weights: inconsistent", "optimizer: adahessian\n"),
        "optimizer.name",
        "differentiates through the weights",
    ),
    BadSpec("no such compensation", delayed("steps: 2, compensation: dana"), "exchange.compensation.name", "dana_zero"),
    BadSpec(
        "a compensation of Adam",
        delayed("steps: 2, compensation: gap_aware", "optimizer: adamw\n"),
        "optimizer.name",
        "exchange.compensation gap_aware is defined on the steps of SGD. Legal: sgd",
    ),
    BadSpec(
        "a compensation without momentum",
        delayed("steps: 2, compensation: dana_zero", "optimizer: sgd\n"),
        "optimizer.momentum",
        "exchange.compensation dana_zero needs momentum. Legal: a number > 0",
    ),
    BadSpec(
        "a compensation of Nesterov's",
        delayed("steps: 2, compensation: weight_prediction", SGD.replace("}", ", nesterov: true}")),
        "optimizer.nesterov",
        "is defined on plain momentum. Legal: false",
    ),
    BadSpec(
        "a compensation with dampening",
        delayed("steps: 2, compensation: gap_aware", SGD.replace("}", ", dampening: 0.5}")),
        "optimizer.dampening",
        "is defined without dampening. Legal: 0",
    ),
    BadSpec("delayed under fsdp2", delayed("steps: 2", "engine: fsdp2\n"), "exchange.name", "requires local_gradients"),
    BadSpec(
        "a modulator that there is not",
        good("modulators: [{name: mixup}]"),
        "modulators.0.name",
        "unknown modulators. Legal: adaptive_braking",
    ),
    BadSpec("modulators not in a list", good("modulators: adaptive_braking"), "modulators", "a list, each item"),
    BadSpec(
        "braking without momentum",
        good("modulators: [adaptive_braking]\noptimizer: sgd"),
        "optimizer.momentum",
        "compares the gradient with the momentum. Legal: a number > 0",
    ),
    BadSpec(
        "braking what is normalized",
        good("modulators: [adaptive_braking]\noptimizer: novograd"),
        "optimizer.name",
        "averages the gradient as it is given. Legal: sgd, adamw, lamb",
    ),
    BadSpec(
        "braking twice",
        good("modulators: [adaptive_braking, adaptive_braking]"),
        "modulators.1.name",
        "is there twice",
    ),
    BadSpec(
        "braking under deepspeed",
        good("modulators: [adaptive_braking]\nengine: deepspeed"),
        "modulators.0.name",
        "requires native_step of the engine",
    ),
]
