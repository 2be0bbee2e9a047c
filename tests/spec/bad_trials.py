"""Sweeps that cannot be although each trial has workers of its own, and ways to run trials that are none."""

from spec.bad_spec import BadSpec, good


def swept(lists: str, lines: str = "") -> str:
    """A good spec with a sweep whose trials are trained apart, and more lines."""
    return good(f"sweep: {lists}\n{lines}")


def compared(fields: str) -> str:
    """A good sweep whose trials are compared by a metric of the steps."""
    return swept("{train.seed: [0, 1]}", f"trials: {{early_stopping: {{metric: loss, {fields}}}}}")


SEPARATE_TRIALS = [
    BadSpec(
        "a sweep over the queue",
        swept("{queue.priority: [1, 2]}"),
        "sweep.queue.priority",
        "is the whole job's and cannot differ between trials. Legal: paths in recipe, train, batch",
    ),
    BadSpec(
        "a sweep over how trials run", swept("{trials.concurrent: [1, 2]}"), "sweep.trials.concurrent", "whole job"
    ),
    BadSpec(
        "workers in a sweep that are too many",
        swept("{resources.workers: [2, 500]}"),
        "batch.global_size",
        "= 128: in trial 1 (resources.workers = 500): 128 / 500 workers",
    ),
    BadSpec(
        "an engine in a sweep that lacks what the optimizer needs",
        swept("{engine: [ddp, {name: deepspeed, zero_stage: 2}]}", "optimizer: adafactor"),
        "optimizer.name",
        "in trial 1 (engine = ",
    ),
    BadSpec(
        "a batch in a sweep that does not divide into pushes",
        swept("{batch.global_size: [8, 9]}", "exchange: {name: asynchronous, pushes_per_update: 2}"),
        "sweep.batch.global_size.1",
        "= 9: 9 / 2 pushes",
    ),
    BadSpec(
        "a sequential code in one trial",
        swept("{exchange: [all_reduce, {name: coded, scheme: m_sgc, window: 3}]}", "resources: {workers: 4}"),
        "sweep.exchange.1.scheme",
        "3 or more models must share the workers; this job has one",
    ),
    BadSpec(
        "too many separate trials",
        swept(f"{{train.seed: {[*range(17)]}, optimizer.lr: {[k + 1 for k in range(16)]}}}"),
        "sweep",
        "17 x 16 = 272 trials. Legal: at most 256",
    ),
]

RANDOM_SWEEPS = [
    BadSpec(
        "a random sweep of nobody knows how many",
        swept("{random: {optimizer.lr: [0.1, 0.2]}}"),
        "sweep.random.trials",
        "missing. Legal: an integer >= 1",
    ),
    BadSpec(
        "a random sweep of no trials",
        swept("{random: {trials: 0, optimizer.lr: [0.1, 0.2]}}"),
        "sweep.random.trials",
        "= 0: not a number of trials",
    ),
    BadSpec(
        "a random sweep with a fraction for a seed",
        swept("{random: {trials: 2, seed: 0.5, optimizer.lr: [0.1, 0.2]}}"),
        "sweep.random.seed",
        "= 0.5: not a seed. Legal: an integer >= 0",
    ),
    BadSpec(
        "a random sweep without paths", swept("{random: {trials: 2}}"), "sweep.random", "has no lists by dotted path"
    ),
    BadSpec(
        "an unknown distribution",
        swept("{random: {trials: 2, optimizer.lr: {normal: [0, 1]}}}"),
        "sweep.random.optimizer.lr",
        "not a distribution. Legal: a list to choose from, or one of uniform, log_uniform, int_uniform",
    ),
    BadSpec(
        "a distribution that is a number",
        swept("{random: {trials: 2, optimizer.lr: 0.1}}"),
        "sweep.random.optimizer.lr",
        "= 0.1: not a distribution",
    ),
    BadSpec(
        "limits the wrong way round",
        swept("{random: {trials: 2, optimizer.lr: {uniform: [2, 1]}}}"),
        "sweep.random.optimizer.lr",
        "has no such limits. Legal: uniform: two numbers, the lower one first",
    ),
    BadSpec(
        "a logarithm of zero",
        swept("{random: {trials: 2, optimizer.lr: {log_uniform: [0, 1]}}}"),
        "sweep.random.optimizer.lr",
        "Legal: log_uniform: two numbers above 0",
    ),
    BadSpec(
        "fractions for integers",
        swept("{random: {trials: 2, train.seed: {int_uniform: [0, 1.5]}}}"),
        "sweep.random.train.seed",
        "Legal: int_uniform: two integers",
    ),
    BadSpec(
        "nothing to choose from",
        swept("{random: {trials: 2, train.seed: []}}"),
        "sweep.random.train.seed",
        "= []: an empty list",
    ),
    BadSpec(
        "more trials than there are",
        swept("{random: {trials: 5, train.seed: [0, 1]}}"),
        "sweep.random.trials",
        "= 5: only 2 different ones could be drawn. Legal: at most 2, or a grid of all",
    ),
    BadSpec(
        "too many random trials",
        swept("{random: {trials: 257, train.seed: {int_uniform: [0, 9999]}}}"),
        "sweep.random.trials",
        "= 257: too many. Legal: at most 256",
    ),
    BadSpec(
        "an illegal value that may be drawn",
        swept("{random: {trials: 3, optimizer.lr: {uniform: [-2, -1]}}}"),
        "sweep.random.optimizer.lr",
        '= {"uniform": [-2, -1]}: draws -1.',
    ),
    BadSpec(
        "an unknown field in a random sweep",
        swept("{random: {trials: 3, optimizer.lrr: {uniform: [1, 2]}}}"),
        "sweep.random.optimizer.lrr",
        '= {"uniform": [1, 2]}: unknown key',
    ),
]

WAYS_TO_RUN = [
    BadSpec(
        "trials without a sweep",
        good("trials: {concurrent: 2}"),
        "trials",
        "there is no sweep. Legal: no `trials`, or a sweep",
    ),
    BadSpec(
        "trials that share the workers, some at a time",
        swept("{train.seed: [0, 1]}", "exchange: coded\nresources: {workers: 4}\ntrials: {concurrent: 2}"),
        "trials",
        "trials that share the workers train all at once. Legal: no `trials`, or another exchange",
    ),
    BadSpec(
        "no trial at a time", swept("{train.seed: [0, 1]}", "trials: {concurrent: 0}"), "trials.concurrent", ">= 1"
    ),
    BadSpec(
        "early stopping by what is measured at the end",
        swept("{train.seed: [0, 1]}", "trials: {early_stopping: {rule: asha, first: {steps: 2}}}"),
        "trials.early_stopping.metric",
        '= "eval/loss": is measured at the end only, where there is nothing left to stop. Legal: train.eval_every',
    ),
    BadSpec(
        "an unknown rule",
        compared("rule: asah, first: {steps: 2}"),
        "trials.early_stopping.rule",
        "Did you mean 'asha'?",
    ),
    BadSpec(
        "early stopping from the start",
        compared("rule: asha"),
        "trials.early_stopping.first",
        "missing. Legal: a mapping of steps, samples",
    ),
    BadSpec(
        "early stopping in two units",
        compared("rule: asha, first: {steps: 2, samples: 3}"),
        "trials.early_stopping.first",
        "needs exactly one of steps, samples; got steps, samples",
    ),
    BadSpec(
        "a parameter of the other rule",
        compared("rule: asha, first: {steps: 2}, finished_trials: 2"),
        "trials.early_stopping",
        "finished_trials is of rule median; asha takes reduction_factor",
    ),
]
