"""Every bad spec is refused with one line per problem that names the field, and with nothing but `SpecError`."""

import contextlib
import random
from pathlib import Path

import pytest
from spec.bad_spec import GOOD, RECIPE, BadSpec
from spec.bad_specs import BAD_SPECS

from orchestrator.spec.load import load_spec
from orchestrator.spec.problems import SpecError


@pytest.mark.parametrize("bad", BAD_SPECS, ids=lambda bad: bad.id)
def test_is_refused_with_the_field_named_and_nothing_else(bad: BadSpec, tmp_path: Path) -> None:
    """One fault gives one problem: no error that only follows from another."""
    file = bad.write(tmp_path)
    with pytest.raises(SpecError) as caught:
        load_spec(file, bad.overrides)
    (problem,) = caught.value.problems
    line = str(problem)
    assert problem.path == bad.path
    assert bad.message in line
    assert str(caught.value) == line
    assert "\n" not in line
    assert len(line) < 1000


def test_ids_are_unique() -> None:
    assert len({bad.id for bad in BAD_SPECS}) == len(BAD_SPECS) >= 60


def test_faults_of_every_kind_are_reported_together(tmp_path: Path) -> None:
    text = GOOD + (
        "optimizer: {name: lmab, lrr: 0.1, eps: .nan}\n"
        "batch: {global_size: 4}\n"
        "resources: {workers: 8, placement: pakc}\n"
        "env: {A: 1, A: b}\n"
        "schedule: {warmup: {steps: 9}, warm: 1}\n"
    )
    recipe = RECIPE.replace("def loss", "def los")
    file = BadSpec("", text, "", "", files={"recipe.py": recipe}).write(tmp_path)
    with pytest.raises(SpecError) as caught:
        load_spec(file, ["queue.owner=3", "x"])
    assert [(problem.line, problem.path) for problem in caught.value.problems] == [
        (1, "recipe.target"),
        (3, "optimizer.eps"),
        (3, "optimizer.name"),
        (3, "optimizer.lrr"),
        (4, "batch.global_size"),
        (5, "resources.placement"),
        (6, "env.A"),
        (7, "schedule.warm"),
        (7, "schedule.warmup.steps"),
        (None, ""),
        (None, "queue.owner"),
    ]


@pytest.mark.parametrize("name", ["missing.yaml", ".", "\udcff.yaml", "a" * 5000])
def test_a_file_that_is_not_there(name: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"no such file|not a regular file"):
        load_spec(tmp_path / name)


def test_mutated_specs_never_raise_anything_else(tmp_path: Path) -> None:
    """300 random edits of a full spec: each loads or is refused in order."""
    source = (Path(__file__).parent / "full.yaml").read_text(encoding="utf-8")
    file = BadSpec("", source, "", "").write(tmp_path)
    randomness = random.Random(0)
    snippets = [
        "{",
        "}",
        "[",
        "]",
        ": ",
        "- ",
        "\n",
        "  ",
        "&a ",
        "*a",
        "!!",
        "|",
        "'",
        '"',
        "0",
        "~",
        "-1",
        "\t",
        "#",
        "%",
        "é",
    ]
    for _ in range(300):
        start = randomness.randrange(len(source))
        end = start + randomness.choice([0, 0, 1, 5])
        file.write_text(source[:start] + randomness.choice(snippets) + source[end:], encoding="utf-8")
        with contextlib.suppress(SpecError):
            load_spec(file)
