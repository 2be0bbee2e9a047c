"""Ranges of workers that are none, or that do not go with the rest of the spec."""

from spec.bad_spec import BadSpec, good, hugging_face


def elastic(workers: str, more: str = "") -> str:
    return good(f"resources: {{workers: {workers}}}\n{more}")


ELASTIC = [
    BadSpec(
        "a range that ends before it begins",
        elastic("{min: 5, max: 2}"),
        "resources.workers",
        "min: 5 is more than max: 2. Legal: 1 <= min <= max",
    ),
    BadSpec("a range from nothing", elastic("{min: 0, max: 2}"), "resources.workers.min", "Legal: an integer >= 1"),
    BadSpec("a range without an end", elastic("{min: 2}"), "resources.workers.max", "missing"),
    BadSpec("a range with a step", elastic("{min: 2, max: 4, step: 2}"), "resources.workers.step", "Legal: min, max"),
    BadSpec(
        "a list of numbers", elastic("[2, 4]"), "resources.workers", "or a mapping of min, max, samples_per_worker"
    ),
    BadSpec(
        "workers for no samples",
        elastic("{min: 2, max: 4, samples_per_worker: 0}"),
        "resources.workers.samples_per_worker",
        "Legal: null or an integer >= 1",
    ),
    BadSpec(
        "two rules for the workers asked for",
        elastic("{min: 2, max: 4, samples_per_worker: 8}", "batch: {controller: goodput}"),
        "resources.workers.samples_per_worker",
        "goodput asks for as many workers as pay. Legal: null, or batch.controller.min_utility: null",
    ),
    BadSpec(
        "samples of a script",
        "name: tiny\nscript: {path: train.py}\nresources: {workers: {min: 2, max: 4, samples_per_worker: 8}}\n",
        "resources.workers.samples_per_worker",
        "what a step of a script is nobody knows. Legal: null, or a recipe in place of the script",
        files={"train.py": ""},
    ),
    BadSpec(
        "a batch too small for some numbers of workers",
        elastic("{min: 2, max: 6}", "batch: {global_size: 4}"),
        "batch.global_size",
        "with 5 to 6 workers: 4 / 6 workers = 0.667 samples per worker; each needs at least 1. Legal: 6 or more",
    ),
    BadSpec(
        "a phase's batch too small for some numbers of workers",
        elastic("{min: 2, max: 6}", "then: [{train: {steps: 1}, batch: {global_size: 4}}]"),
        "then.0.batch.global_size",
        "with 5 to 6 workers: 4 / 6 workers",
    ),
    BadSpec(
        "replica groups that some numbers of workers do not fill",
        elastic("{min: 2, max: 7}", "engine: {name: fsdp2, mesh: {replicate: 2}}"),
        "engine.mesh.replicate",
        "with 3, 5, 7 workers: 7 workers / 2 replica groups = 3.5 workers each. Legal: a divisor of 7: 1, 7",
    ),
    BadSpec(
        "another engine's configuration for one number of workers",
        elastic("{min: 2, max: 4}", "engine: {name: deepspeed, config: {gradient_accumulation_steps: 2}}")
        + "batch: {global_size: 64, micro_size: 16}\n",
        "engine.config.gradient_accumulation_steps",
        "with 4 workers: ",
    ),
    BadSpec(
        "elastic workers of a code",
        elastic("{min: 2, max: 4}", "exchange: {name: coded, scheme: uncoded}"),
        "resources.workers",
        '{"min": 2, "max": 4}: exchange: coded assigns the parts of a batch to a fixed number of workers',
    ),
    BadSpec(
        "elastic workers that are asynchronous",
        elastic("{min: 2, max: 4}", "exchange: asynchronous"),
        "resources.workers",
        "come and go one by one as it is, without a restart. Legal: a number with exchange: asynchronous",
    ),
    BadSpec(
        "elastic workers of a stream",
        hugging_face("data_files: {train: a.json}, streaming: true") + "resources: {workers: {min: 1, max: 2}}\n",
        "resources.workers",
        "a stream goes on with the number of workers that its positions were saved for",
        files={"a.json": "{}"},
    ),
]
