"""Batch controllers whose sizes, workers, rates or optimizer do not go together."""

from spec.bad_spec import BadSpec, good


def controlled(controller: str, more: str = "", *, size: int = 64, micro: str = "16", workers: int = 2) -> str:
    """A good spec but for its batch controller."""
    batch = f"batch: {{global_size: {size}, micro_size: {micro}, controller: {{{controller}}}}}"
    return good(f"{batch}\nresources: {{workers: {workers}}}\n{more}")


CONTROLLERS = [
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
