"""Modulators of the loss that do not go with the rest of the job."""

from spec.bad_spec import BadSpec, good, hugging_face

CONADV = "{name: conadv, epsilon: 0.1}"
CHECKPOINTED = ("{steps: 8}", "{steps: 8, activation_checkpointing: {}}")

MODULATORS = [
    BadSpec("sam under fsdp2", good("modulators: [sam]\nengine: fsdp2"), "modulators.0.name", "requires whole_weights"),
    BadSpec(
        "8-bit activations under fsdp2",
        good("modulators: [saved_activations]\nengine: fsdp2"),
        "modulators.0.name",
        "requires whole_weights",
    ),
    BadSpec(
        "conadv under deepspeed",
        good(f"modulators: [{CONADV}]\nengine: deepspeed"),
        "modulators.0.name",
        "requires native_step, whole_weights",
    ),
    BadSpec("sam backwards", good("modulators: [{name: sam, rho: -0.1}]"), "modulators.0.rho", "0"),
    BadSpec(
        "a group larger than a backward",
        good("modulators: [{name: sam, m: 17}]\nbatch: {global_size: 64, micro_size: 16}\nresources: {workers: 2}"),
        "modulators.0.m",
        "a backward of one worker has 16 samples. Legal: at most 16, or null",
    ),
    BadSpec(
        "sam in fp16",
        good("modulators: [sam]").replace("{steps: 8}", "{steps: 8, precision: fp16}"),
        "train.precision",
        "modulators: sam takes gradients of its own, which have no loss scale. Legal: fp32 or bf16",
    ),
    BadSpec(
        "sam compiled",
        good("modulators: [sam]").replace("{steps: 8}", "{steps: 8, compile: eager}"),
        "train.compile",
        "modulators: sam is not made for compiled models. Legal: null",
    ),
    BadSpec(
        "sam between two weights",
        good("modulators: [sam]\nexchange: {name: delayed, steps: 2, weights: inconsistent}"),
        "exchange.weights",
        "modulators: sam runs its backwards before the newest weights come back. Legal: consistent",
    ),
    BadSpec(
        "8-bit activations of second derivatives",
        good("modulators: [saved_activations]\noptimizer: adahessian"),
        "optimizer.name",
        "takes second derivatives of the loss, for which modulators: saved_activations is not made",
    ),
    BadSpec(
        "an attack of unknown strength",
        good("modulators: [disadv]"),
        "modulators.0.epsilon",
        "missing. Legal: a number >= 0",
    ),
    BadSpec(
        "a range that is none",
        good("modulators: [{name: disadv, epsilon: 0.1, clip: [1, 0]}]"),
        "modulators.0",
        "clip needs a least value below the largest; got [1.0, 0.0]",
    ),
    BadSpec(
        "an attack on another's loss",
        good("modulators: [sam, {name: disadv, epsilon: 0.1}]"),
        "modulators.1.name",
        "changes samples by the recipe's own loss, which sam has changed before it. Legal: before sam",
    ),
    BadSpec(
        "two batch norms of forwards that run again",
        good("modulators: [{name: disadv, epsilon: 0.1}]").replace(*CHECKPOINTED),
        "modulators.0.statistics",
        "would mix them up. Legal: shared",
    ),
    BadSpec(
        "attacks beside forwards that run again",
        good("modulators: [{name: conadv, epsilon: 0.1, statistics: shared}]").replace(*CHECKPOINTED),
        "modulators.0.concurrent",
        "share random numbers with the step beside them. Legal: concurrent: false",
    ),
    BadSpec(
        "attacks ahead of leased samples",
        good(f"modulators: [{CONADV}]\nexchange: asynchronous"),
        "exchange.name",
        "which only ranks that sum their own gradients have. Legal: all_reduce, or disadv",
    ),
    BadSpec(
        "attacks ahead of a delay",
        good(f"modulators: [{CONADV}]\nexchange: {{name: delayed, steps: 2}}"),
        "exchange.name",
        "Legal: all_reduce, or disadv",
    ),
    BadSpec(
        "attacks ahead of a batch that changes",
        good(f"modulators: [{CONADV}]\nbatch: {{controller: {{name: schedule, sizes: '96:60'}}}}"),
        "batch.controller.name",
        "whose size is not known yet. Legal: constant",
    ),
    BadSpec(
        "attacks ahead of a stream",
        hugging_face("data_files: {train: a.json}, streaming: true") + f"modulators: [{CONADV}]\n",
        "data.source.streaming",
        "cannot go back to them in a stream. Legal: false",
        files={"a.json": "{}"},
    ),
]
