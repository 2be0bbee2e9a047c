"""`orchestrator fit-curve` on curves made from known numbers."""

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

NUM_STEPS, WARMUP_STEPS, PEAK = 400, 20, 0.01
L0, A, ALPHA, C, MOMENTUM = 1.5, 0.8, 0.4, 0.3, 0.99


def rates(falls: bool) -> list[float]:
    """Linear warmup, then constant or linear to a tenth of the peak, as a spec of these numbers plans it."""
    progress = np.maximum(0, np.arange(NUM_STEPS) - WARMUP_STEPS) / (NUM_STEPS - WARMUP_STEPS)
    shape = 0.1 + 0.9 * (1 - progress) if falls else np.ones(NUM_STEPS)
    return (PEAK * shape * np.minimum(1, np.arange(1, NUM_STEPS + 1) / WARMUP_STEPS)).tolist()


def losses(lr: list[float]) -> list[float]:
    """The law, step by step."""
    found, s1, momentum, s2 = [], 0.0, 0.0, 0.0
    for step, rate in enumerate(lr):
        s1 += rate
        if step >= WARMUP_STEPS:
            momentum = MOMENTUM * momentum + lr[step - 1] - rate
            s2 += momentum
        found.append(L0 + A * s1**-ALPHA - C * s2)
    return found


@pytest.fixture
def csv_of(tmp_path: Path) -> Callable[[str, bool], Path]:
    def write(name: str, falls: bool) -> Path:
        lr = rates(falls)
        with (tmp_path / name).open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(("step", "lr", "loss"))
            writer.writerows(zip(range(1, NUM_STEPS + 1), lr, losses(lr), strict=True))
        return tmp_path / name

    return write


@pytest.fixture
def curve(csv_of: Callable[[str, bool], Path]) -> Path:
    """A curve whose rate falls."""
    return csv_of("falls.csv", True)


SCHEDULE = (
    "--set",
    f"train.steps={NUM_STEPS}",
    "--set",
    f"optimizer={{name: sgd, lr: {PEAK}}}",
    "--set",
    f"schedule={{name: constant, warmup: {{steps: {WARMUP_STEPS}}}}}",
)


def test_numbers_errors_and_a_prediction(cli, csv_of, curve: Path, spec: Path) -> None:
    constant = csv_of("constant.csv", False)
    answer = cli("fit-curve", curve, "--momentum", MOMENTUM, "--predict", constant, "--predict", spec, *SCHEDULE)
    assert (answer.code, answer.err) == (0, "")
    law, _, header, *rows = answer.out.splitlines()
    assert law == "L = 1.5 + 0.8 S1^-0.4 - 0.3 S2, momentum 0.99"
    assert header.split("  ")[0] == "CURVE"
    final = f"{np.mean(losses(rates(False))[-4:]):.4f}"
    assert [row.split()[1:5] for row in rows] == [
        ["fitted", "400", "20", "0.01"],
        ["predicted", "400", "20", "0.01"],
        ["predicted", "400", "20", "0.01"],
    ]
    assert rows[1].split()[5:7] == [final, final]
    assert rows[1].split()[8:] == ["0.00%", "0.00%", "0.00%"]
    assert rows[2].split()[5:] == [final]


def test_json(cli, csv_of, curve: Path, spec: Path) -> None:
    constant = csv_of("constant.csv", False)
    answer = cli("fit-curve", curve, constant, "--momentum", MOMENTUM, "--predict", spec, "--json", *SCHEDULE)
    document = json.loads(answer.out)
    expected = {"l0": L0, "a": A, "alpha": ALPHA, "c": C, "momentum": MOMENTUM}
    assert document["law"] == pytest.approx(expected, rel=1e-3)
    assert (document["loss"], document["warnings"]) == ("loss", [])
    assert [(row["use"], row["name"]) for row in document["curves"]] == [
        ("fitted", str(curve)),
        ("fitted", str(constant)),
        ("predicted", str(spec)),
    ]
    assert document["curves"][0]["errors"]["points"] == NUM_STEPS - WARMUP_STEPS
    assert document["curves"][0]["errors"]["max"] < 1e-3
    assert document["curves"][2]["errors"] is None
    assert document["curves"][2]["final_predicted"] == pytest.approx(np.mean(losses(rates(False))[-4:]), rel=1e-4)


def test_a_csv_of_every_step(cli, curve: Path, spec: Path, tmp_path: Path) -> None:
    out = tmp_path / "predicted.csv"
    command = ["fit-curve", curve, "--momentum", MOMENTUM, "--predict", spec, *SCHEDULE, "--out", out]
    assert cli(*command).code == 0
    with out.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["use"] for row in rows] == ["fitted"] * NUM_STEPS + ["predicted"] * NUM_STEPS
    assert [float(row["lr"]) for row in rows] == pytest.approx([*rates(True), *rates(False)])
    predicted = [float(row["predicted_loss"]) for row in rows]
    assert predicted == pytest.approx([*losses(rates(True)), *losses(rates(False))], rel=1e-3)
    assert [float(row["observed_loss"]) for row in rows[:NUM_STEPS]] == pytest.approx(losses(rates(True)))
    assert {row["observed_loss"] for row in rows[NUM_STEPS:]} == {""}
    refused = cli(*command)
    assert (refused.code, refused.out) == (2, "")
    assert f"--out: {out} exists" in refused.err
    assert cli(*command, "--force").code == 0


def test_a_doubtful_prediction_is_said_to_be(cli, curve: Path, spec: Path) -> None:
    faster = (*SCHEDULE, "--set", "optimizer.lr=0.1")
    answer = cli("fit-curve", curve, "--momentum", MOMENTUM, "--predict", spec, *faster)
    assert answer.code == 0
    assert answer.err == (
        f"warning: {spec}: its peak rate is 0.1, that of the fitted curves 0.01; the law holds for one.\n"
    )


@pytest.mark.parametrize("momentum", ["1", "-0.1", "nan"])
def test_a_momentum_that_is_none(momentum: str, cli, curve: Path) -> None:
    answer = cli("fit-curve", curve, "--momentum", momentum)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err == f"error: --momentum: {momentum} is not in [0, 1).\n"


def test_curves_that_cannot_be_fitted_are_2_and_one_sentence(cli, csv_of, tmp_path: Path) -> None:
    constant = csv_of("constant.csv", False)
    answer = cli("fit-curve", constant)
    assert (answer.code, answer.out) == (2, "")
    assert "never falls after the warmup; C needs a curve that is annealed." in answer.err
    assert len(answer.err.splitlines()) == 1
    answer = cli("fit-curve", "nobody", "--storage", tmp_path / "runs")
    assert (answer.code, answer.out) == (2, "")
    assert "no nobody in" in answer.err


def test_a_warmup_that_is_not_in_the_file_and_another_column(cli, tmp_path: Path) -> None:
    lr = rates(True)
    lines = [f"{step},{lr[step - 1]},{losses(lr)[step - 1]}\n" for step in range(WARMUP_STEPS + 1, NUM_STEPS + 1)]
    (tmp_path / "late.csv").write_text("step,lr,validation\n" + "".join(lines))
    command = ["fit-curve", "late.csv", "--loss", "validation", "--momentum", MOMENTUM, "--json"]
    assert "late.csv: line 2: the first step is 21; --warmup-steps tells" in cli(*command).err
    document = json.loads(cli(*command, "--warmup-steps", WARMUP_STEPS).out)
    assert (document["loss"], document["curves"][0]["warmup_steps"]) == ("validation", WARMUP_STEPS)
    assert document["law"]["alpha"] == pytest.approx(ALPHA, rel=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--set", "train.steps=5"], "--set: changes the specs that --predict names, and it names none."),
        (["--out", "nowhere/out.csv"], "--out: there is no folder"),
        (["--out", ".", "--force"], "--out: . exists"),
        (["--predict", "gone.yaml"], "gone.yaml"),
        (["--predict", "gone.csv"], "gone.csv: there is no such file."),
    ],
)
def test_options_that_cannot_be_carried_out(options: list[str], message: str, cli, curve: Path) -> None:
    answer = cli("fit-curve", curve, *options)
    assert (answer.code, answer.out) == (2, "")
    assert message in answer.err
    assert len(answer.err.splitlines()) == 1


def test_it_loads_neither_torch_nor_ray(curve: Path, spec: Path) -> None:
    script = (
        "import sys; from orchestrator.cli.main import main; code = main(sys.argv[1:]);"
        "print(code, *sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    command = [sys.executable, "-c", script, "fit-curve", str(curve), "--predict", str(spec), *SCHEDULE]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    code, *modules = process.stderr.splitlines()[-1].split()
    assert code == "0"
    assert not {"torch", "ray", "mlflow", "datasets"} & set(modules)
