"""What `orchestrator methods` shows agrees with the tables from which methods are imported."""

from orchestrator.core.tables import TABLES
from orchestrator.spec.check import missing_capabilities
from orchestrator.spec.methods_table import engines, methods
from orchestrator.spec.seams import seams


def test_the_spec_names_exactly_the_methods_that_can_be_imported() -> None:
    assert {seam: set(table) for seam, table in TABLES.items()} == {
        path: set(seam.methods) for path, seam in seams().items()
    }
    assert {(row.seam, row.name) for row in methods()} == {(seam, name) for seam in TABLES for name in TABLES[seam]}


def test_defaults_are_methods() -> None:
    assert {path: seam.default for path, seam in seams().items()} == {
        "batch.controller": "constant",
        "optimizer": "adamw",
        "schedule": "constant",
        "engine": "ddp",
        "exchange": "all_reduce",
        "exchange.compensation": "",
        "modulators": "",
        "data.source": "recipe",
    }
    assert [row.seam for row in methods() if row.is_default] == [path for path, seam in seams().items() if seam.default]


def test_one_method_in_full() -> None:
    (adamw,) = methods("adamw")
    assert adamw.seam == "optimizer"
    assert adamw.summary == "Adam with decoupled weight decay: torch.optim.AdamW, its arguments and defaults."
    eps = next(argument for argument in adamw.arguments if argument.name == "eps")
    assert (eps.type, eps.default, eps.description) == (
        "a number > 0",
        "1e-08",
        "Added to the root of the second moment.",
    )
    warmup = next(argument for argument in methods("cosine")[0].arguments if argument.name == "warmup")
    assert (warmup.type, warmup.default) == (
        "null or a mapping of steps, epochs, samples, fraction, scale_with_batch",
        "null",
    )
    assert "name" not in [argument.name for argument in adamw.arguments]


def test_what_is_required_of_and_provided_by_engines() -> None:
    (adafactor,) = methods("adafactor")
    (ddp,) = methods("ddp")
    assert adafactor.requires == ("rows",)
    assert set(adafactor.requires) <= set(ddp.provides["ddp"])
    assert ddp.requires == ()
    assert (adafactor.provides, ddp.lacking) == ({}, {})


def test_variants_of_an_engine_may_differ() -> None:
    (deepspeed,) = methods("deepspeed")
    undivided, divided = deepspeed.provides.values()
    assert list(deepspeed.provides) == ["deepspeed (zero_stage 0)", "deepspeed (zero_stage 2)"]
    assert set(undivided) - set(divided) == {"whole_tensors", "rows", "step_loss", "whole_step"}
    (accelerate,) = methods("accelerate")
    by_rows, flat = accelerate.provides.values()
    assert list(accelerate.provides) == ["accelerate (FSDP)", "accelerate (DEEPSPEED)"]
    assert set(by_rows) - set(flat) == {"rewinds", "rows", "step_loss", "whole_step"}


def test_what_engines_lack_is_what_check_reports() -> None:
    for row in methods():
        if row.seam == "engine":
            continue
        assert list(row.lacking) == [engine.title for engine in engines()]
        for engine in engines():
            method = seams()[row.seam].methods[row.name].model_construct(name=row.name)
            reported = [str(problem) for problem in missing_capabilities(row.seam, method, engine)]
            assert len(reported) == bool(row.lacking[engine.title])
            assert all(", ".join(row.lacking[engine.title]) in problem for problem in reported)


def test_a_name_may_belong_to_several_seams_or_none() -> None:
    assert [row.seam for row in methods("constant")] == ["batch.controller", "schedule"]
    assert methods("lmab") == []


def test_required_arguments_have_no_default() -> None:
    (source,) = methods("hugging_face")
    assert [argument.name for argument in source.arguments if argument.default is None] == ["path"]


def test_everything_is_described() -> None:
    for row in methods():
        assert row.summary.endswith("."), row
        assert all(argument.description and argument.type for argument in row.arguments), row
