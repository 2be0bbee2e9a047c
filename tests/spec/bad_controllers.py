"""Batch controllers whose sizes, workers, rates or optimizer do not go together."""

from spec.bad_spec import BadSpec, good, hugging_face


def controlled(controller: str, more: str = "", *, size: int = 64, micro: str = "16", workers: int = 2) -> str:
    """A good spec but for its batch controller."""
    batch = f"batch: {{global_size: {size}, micro_size: {micro}, controller: {{{controller}}}}}"
    return good(f"{batch}\nresources: {{workers: {workers}}}\n{more}")


def probed(controller: str, more: str = "") -> str:
    """A good spec but for its probes of the critical batch, or what stands beside them."""
    return controlled(f"name: cbs_probe, every_samples: 1000, branch_samples: 9000, {controller}", more)


CONTROLLERS = [
    BadSpec(
        "branches too short for their largest batch",
        controlled("name: cbs_probe, every_samples: 1000, branch_samples: 4000"),
        "batch.controller.branch_samples",
        "a branch is to have 4 steps of the largest batch, 1024. Legal: 4096 or more, or a smaller max_size",
    ),
    BadSpec(
        "a probe whose largest batch is below the first",
        probed("max_size: 32"),
        "batch.controller.max_size",
        "the batch begins with batch.global_size = 64",
    ),
    BadSpec(
        "multiples that do not begin with the present batch and its double",
        probed("multiples: [1, 4]"),
        "batch.controller",
        "multiples: [1, 4] do not increase from 1, 2 on",
    ),
    BadSpec("branches coupled by a noise scale", probed("coupling: gain"), "batch.controller.coupling", "linear, sqrt"),
    BadSpec(
        "branches of old gradients",
        probed("tolerance: 0.1", "exchange: {name: delayed, steps: 1}"),
        "exchange.name",
        "cannot be put back after the branches of cbs_probe. Legal: all_reduce",
    ),
    BadSpec(
        "branches of a stream",
        hugging_face("data_files: {train: a.json}, streaming: true")
        + "batch: {controller: {name: cbs_probe, every_samples: 1000, branch_samples: 9000}}\n",
        "data.source.streaming",
        "read the samples that come next, and a stream cannot be put back. Legal: false",
        files={"a.json": "{}"},
    ),
    BadSpec(
        "branches of an engine that cannot go back",
        probed("tolerance: 0.1", "engine: deepspeed"),
        "batch.controller.name",
        "requires rewinds of the engine, which deepspeed (zero_stage 2) does not provide",
    ),
    BadSpec(
        "a misspelt controller", controlled("name: norm_tset"), "batch.controller.name", "Did you mean 'norm_test'?"
    ),
    BadSpec("an eta of 1", controlled("name: norm_test, eta: 1.0"), "batch.controller.eta", "out of range"),
    BadSpec(
        "a coupling that is no word for it",
        controlled("name: noise_scale, coupling: square"),
        "batch.controller.coupling",
        "none, linear, sqrt, sde, gain",
    ),
    BadSpec(
        "positions that do not increase",
        controlled("name: schedule, sizes: '500:128 500:256'"),
        "batch.controller",
        "positions must increase",
    ),
    BadSpec("sizes without positions", controlled("name: schedule, sizes: '128'"), "batch.controller.sizes", "not of"),
    BadSpec(
        "a gain that nothing measures",
        controlled("name: schedule, sizes: '500:128', coupling: gain"),
        "batch.controller",
        "a schedule measures none",
    ),
    BadSpec(
        "another first batch",
        controlled("name: schedule, sizes: '0:32 500:128'"),
        "batch.controller.sizes",
        "batch.global_size, for which the rate is chosen, is 64. Legal: 0:64, or no pair at 0",
    ),
    BadSpec(
        "a scheduled batch below the workers",
        controlled("name: schedule, sizes: '500:3'", workers=4),
        "batch.controller.sizes",
        "leaves some of 4 workers without a sample",
    ),
    BadSpec(
        "a least batch that is never used",
        controlled("name: noise_scale, guards: {min_size: 32}"),
        "batch.controller.guards",
        "min_size needs shrink: true",
    ),
    BadSpec(
        "a largest batch below the first",
        controlled("name: noise_scale, guards: {max_size: 32}"),
        "batch.controller.guards.max_size",
        "begins with batch.global_size = 64. Legal: 64 or more",
    ),
    BadSpec(
        "a largest batch of seesaw below the first",
        controlled("name: seesaw, max_size: 32", "schedule: cosine"),
        "batch.controller.max_size",
        "Legal: 64 or more",
    ),
    BadSpec(
        "a least batch above the first",
        controlled("name: noise_scale, guards: {min_size: 100, shrink: true}"),
        "batch.controller.guards.min_size",
        "Legal: from 2 to 64",
    ),
    BadSpec(
        "one worker and one group",
        controlled("name: noise_scale", micro="null", workers=1),
        "batch.micro_size",
        "one worker would have only one. Legal: a number below 64, or resources.workers of 2 and more",
    ),
    BadSpec(
        "seesaw at a constant rate",
        controlled("name: seesaw"),
        "schedule.name",
        "never falls. Legal: polynomial or cosine",
    ),
    BadSpec(
        "adascale beside a scaling rule",
        controlled("name: adascale, reference_batch: 8", "scaling: {rule: sqrt, reference_batch: 8}"),
        "scaling.rule",
        "multiplies the rate of its reference_batch itself",
    ),
    BadSpec(
        "adascale downwards",
        controlled("name: adascale, reference_batch: 128"),
        "batch.controller.reference_batch",
        "Legal: at most 64",
    ),
    BadSpec(
        "averages that the optimizer lacks",
        controlled("name: noise_scale, coupling: sde", "optimizer: sgd"),
        "batch.controller.coupling",
        "sgd has no betas",
    ),
    BadSpec(
        "averages that would forget everything",
        controlled("name: noise_scale, coupling: sde, guards: {max_size: 640}"),
        "batch.controller.coupling",
        "beta 0.9 would become 1 - k (1 - beta)",
    ),
    BadSpec(
        "coded with a batch that changes",
        controlled("name: schedule, sizes: '500:128'", "exchange: {name: coded, stragglers: 0}"),
        "batch.controller.name",
        "Legal: constant, or exchange: all_reduce",
    ),
    BadSpec(
        "products of divided gradients",
        controlled("name: inner_product_test", "engine: fsdp2"),
        "batch.controller.name",
        "requires group_products of the engine",
    ),
]
