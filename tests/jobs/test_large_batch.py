"""The large-batch specs follow one set of rules, and each data set's train as the benchmark trains them."""

import pytest

from benchmarks.learning import BATCHES, CENTERS, Run, train
from orchestrator.spec.job import JobSpec
from orchestrator.spec.load import load_spec
from orchestrator.spec.scaling import warmup_samples


@pytest.mark.parametrize(("data", "optimizer"), [(data, name) for data in CENTERS for name in CENTERS[data]])
def test_every_row_follows_the_rules(data: str, optimizer: str) -> None:
    run = Run(data, optimizer, BATCHES[-1], CENTERS[data][optimizer], seed=2)
    spec = load_spec(run.spec, run.overrides).spec
    ready = load_spec(run.spec).spec
    assert isinstance(spec, JobSpec)
    assert isinstance(ready, JobSpec)
    assert (spec.optimizer.name, spec.optimizer.lr) == (optimizer, run.lr)
    assert (ready.batch.global_size, spec.batch.global_size, spec.train.seed) == (2048, BATCHES[-1], 2)
    assert (spec.scaling.rule, spec.scaling.reference_batch) == ("sqrt", BATCHES[0])
    # A fifth of the training at the largest batch, halved with every halving of the batch.
    lengths = [
        warmup_samples(
            spec.schedule.warmup,
            spec.scaling,
            global_batch_size=batch,
            step_samples=batch,
            epoch_samples=1000,
            total_samples=1000 * (spec.train.epochs or 0),
        )
        / (1000 * (spec.train.epochs or 0))
        for batch in BATCHES
    ]
    assert lengths == pytest.approx([0.2 * batch / BATCHES[-1] for batch in BATCHES])


@pytest.mark.parametrize(
    ("run", "size"),
    [
        (Run("digits", "lars", 512, 0.1), "num_train_images=1500"),
        (Run("text", "lamb", 8192, 0.02, validation=True), "max_bytes=300000"),
    ],
    ids=lambda value: value.data if isinstance(value, Run) else "",
)
def test_a_run_trains_its_epochs_and_is_evaluated(run: Run, size: str) -> None:
    _, result = train(run, f"recipe.args.{size}", "train.epochs=1")
    again, same = train(run, f"recipe.args.{size}", "train.epochs=1")
    assert again == run
    assert same["metrics"] == result["metrics"]
    assert result["steps"] == {"digits": 3, "text": 2}[run.data]
    assert 0 < result["metrics"]["eval/loss"] < 5.6  # log 256: a guess among all bytes costs 5.55


def test_a_run_that_diverges_is_counted_as_such() -> None:
    _, result = train(Run("digits", "sgd", 512, 1e20), "recipe.args.num_train_images=1500", "train.epochs=1")
    assert result["metrics"] is None
