"""Normalizations that do not go with each other or with the exchange, and lengths that no batch can keep."""

from spec.bad_spec import BadSpec, aims_at, good

EPOCHS = aims_at("recipe.py:Tiny").replace("steps: 8", "epochs: 8")
UPDATES = "scaling: {same_updates: true, reference_batch: 32}\n"

NORMS = [
    BadSpec("ghosts of no size", good("modulators: [ghost_norm]"), "modulators.0.size", "missing"),
    BadSpec(
        "ghosts of nothing", good("modulators: [{name: ghost_norm, size: 0}]"), "modulators.0.size", "out of range"
    ),
    BadSpec(
        "a size of all workers",
        good("modulators: [{name: sync_batch_norm, size: 4}]"),
        "modulators.0.size",
        "unknown key",
    ),
    BadSpec(
        "batch norms changed twice",
        good("modulators: [sync_batch_norm, weight_standardization, {name: ghost_norm, size: 4}]"),
        "modulators.2.name",
        "changes the batch norms that sync_batch_norm has changed already. Legal: one of the two",
    ),
    BadSpec(
        "workers that normalize together but compute apart",
        good("modulators: [sync_batch_norm]\nexchange: {name: coded, scheme: fractional, stragglers: 0}"),
        "modulators.0.name",
        "over workers that compute at the same time, which those of coded do not. Legal: exchange: all_reduce",
    ),
    BadSpec(
        "asynchronous workers that normalize together",
        good("modulators: [sync_batch_norm]\nexchange: asynchronous"),
        "modulators.0.name",
        "which those of asynchronous do not",
    ),
    BadSpec(
        "no convolution named",
        good("modulators: [{name: weight_standardization, modules: []}]"),
        "modulators.0.modules",
        "too few entries",
    ),
    BadSpec(
        "an estimate that never moves",
        good("modulators: [{name: batch_channel_norm, estimate: 0.0}]"),
        "modulators.0.estimate",
        "out of range",
    ),
    BadSpec(
        "an estimate beyond the batch",
        good("modulators: [{name: batch_channel_norm, estimate: 1.5}]"),
        "modulators.0.estimate",
        "out of range",
    ),
    BadSpec(
        "no groups", good("modulators: [{name: batch_channel_norm, groups: 0}]"), "modulators.0.groups", "out of range"
    ),
]
SAME_UPDATES = [
    BadSpec(
        "updates of no batch",
        f"{EPOCHS}scaling: {{same_updates: true}}\n",
        "scaling",
        "same_updates needs reference_batch, the batch size whose number of updates is taken",
    ),
    BadSpec(
        "updates that are given",
        good(UPDATES),
        "scaling.same_updates",
        "is a number of updates already, whatever the batch. Legal: false, or train.epochs or train.samples",
    ),
    BadSpec(
        "updates of a smaller batch",
        f"{EPOCHS}{UPDATES}batch: {{global_size: 16}}\n",
        "scaling.same_updates",
        "batch.global_size = 16 takes more updates than reference_batch = 32 already. Legal: false, or a batch of 32",
    ),
    BadSpec(
        "updates of a batch that changes",
        f"{EPOCHS}{UPDATES}batch: {{global_size: 64, micro_size: 16, controller: norm_test}}\n",
        "scaling.same_updates",
        "a batch that norm_test changes has no number of updates to be kept. Legal: false, or batch.controller",
    ),
    BadSpec(
        "a warmup that grows twice",
        f"{EPOCHS}{UPDATES}schedule: {{name: cosine, warmup: {{fraction: 0.1, scale_with_batch: true}}}}\n",
        "schedule.warmup.scale_with_batch",
        "scaling.same_updates makes the warmup longer by the same factor. Legal: false",
    ),
    BadSpec(
        "updates of a later phase that are given",
        f"{EPOCHS}{UPDATES}then: [{{train: {{steps: 3}}}}]\n",
        "scaling.same_updates",
        "in the phase then.0: train.steps is a number of updates already",
    ),
]
