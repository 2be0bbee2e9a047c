"""`orchestrator simulate delay`: delays of workers, and what converges at them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.spec.push_order import read_order

COMMAND = ("simulate", "delay")
QUICK = (*COMMAND, "--quadratic", "--updates", "40")


def test_delays_as_a_table(cli) -> None:
    answer = cli(*COMMAND, "--workers", "8", "--updates", "1100")
    assert (answer.code, answer.err) == (0, "")
    fields, histogram, workers = answer.out.split("\n\n")
    assert "1,100 in 1,100 updates" in fields
    assert "mean 6.97" in fields
    assert "times the samples of synchronous training" in fields
    assert "at momentum 0.9" in fields
    header, *bins = [line.split() for line in histogram.splitlines()]
    assert header == ["DELAY", "PUSHES", "SHARE"]
    assert sum(int(line[-3 if line[-1].startswith("#") else -2].replace(",", "")) for line in bins) == 1100
    header, *rows = [line.split() for line in workers.splitlines()]
    assert header == ["WORKER", "PUSHES", "SHARE", "REFUSED"]
    assert [row[0] for row in rows] == [str(worker) for worker in range(8)]
    assert sum(int(row[1]) for row in rows) == 1100


def test_many_workers_are_cut_to_those_that_did_least(cli) -> None:
    lines = cli(*COMMAND, "--workers", "40", "--slow", "33=4", "--updates", "800").out.splitlines()
    assert lines[-1] == "and 24 workers that did more"
    assert any(line.split()[:1] == ["33"] for line in lines[-17:])


def test_json_and_order(cli, tmp_path: Path) -> None:
    command = (
        *COMMAND,
        "--workers",
        "4",
        "--slow",
        "0=4",
        "--cv",
        "0.2",
        "--updates",
        "50",
        "--pushes-per-update",
        "2",
    )
    command += ("--max-delay", "6", "--max-lead", "30", "--overlap", "--push-s", "0.25", "--momentum", "0.5")
    document = json.loads(cli(*command, "--write", "order.csv", "--json").out)
    order = read_order(tmp_path / "order.csv")
    assert (document["pushes"], document["updates"], len(order)) == (100, 50, 100)
    delays = [push.delay for push in order]
    assert document["delay"]["mean"] == pytest.approx(sum(delays) / 100)
    assert document["delay"]["max"] == max(delays)
    assert document["delay"]["p95"] == sorted(delays)[94]
    assert document["delay"]["counts"] == {str(delay): delays.count(delay) for delay in sorted(set(delays))}
    assert document["speedup"] == pytest.approx(document["synchronous_s"] / document["seconds"])
    assert [worker["accepted"] for worker in document["workers"]] == [
        sum(push.worker == worker for push in order) for worker in range(4)
    ]
    assert document["largest_stable_rate_synchronous"] == pytest.approx(3.0)
    assert 0 < document["largest_stable_rate"] < 1
    other = json.loads(cli(*command, "--seed", "1", "--json").out)
    assert other["seconds"] != document["seconds"]


def test_recorded_times(cli, tmp_path: Path) -> None:
    (tmp_path / "times.csv").write_text("1,1,5\n1,,5\n", encoding="utf-8")
    document = json.loads(cli(*COMMAND, "--trace", "times.csv", "--updates", "110", "--json").out)
    assert [worker["accepted"] for worker in document["workers"]] == [50, 50, 10]
    slower = json.loads(cli(*COMMAND, "--trace", "times.csv", "--slow", "0=5", "--updates", "70", "--json").out)
    assert [worker["accepted"] for worker in slower["workers"]] == [10, 50, 10]


def test_a_fixed_delay(cli, tmp_path: Path) -> None:
    document = json.loads(cli(*COMMAND, "--delay", "3", "--updates", "20", "--write", "order.csv", "--json").out)
    assert document["delay"]["max"] == 3
    assert "workers" not in document
    assert [push.delay for push in read_order(tmp_path / "order.csv")] == [0, 1, 2] + [3] * 17


def test_heat_map_as_a_table(cli, tmp_path: Path) -> None:
    answer = cli(*QUICK, "--delay", "4", "--delay", "0", "--rho", "2", "--plot", "map.png")
    assert (answer.code, answer.err) == (0, "")
    intro, table = answer.out.split("\n\n")
    assert intro.startswith("32 curvatures from 0.001 to 1; 56 learning rates from 1e-05 to 3.162, 13 momenta from 0")
    assert intro.endswith("Braked with rho 2.")
    header, *rows = table.splitlines()
    assert "LARGEST RATE AT 0.9" in header
    assert [row.split()[0] for row in rows] == ["0", "4"]
    assert [row.split()[-1] for row in rows] == ["3.8", "0.0265"]
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")


def test_heat_map_as_data(cli) -> None:
    document = json.loads(
        cli(*QUICK, "--delay", "1", "--condition", "10", "--tensors", "2", "--rho", "1", "--json").out
    )
    assert document["problem"]["condition"] == 10
    assert document["method"] == {"rho": 1.0, "num_tensors": 2, "compensation": None}
    (one,) = document["maps"]
    assert (
        (len(one["half_lives"]), len(one["half_lives"][0]))
        == (56, 13)
        == (
            len(document["rates"]),
            len(document["momenta"]),
        )
    )
    converged = [value for row in one["half_lives"] for value in row if value is not None]
    assert one["converged_share"] == pytest.approx(len(converged) / (56 * 13))
    assert one["plain_exact"]["largest_rates"][0] == pytest.approx(1.0)


@pytest.mark.parametrize("compensation", ["staleness_aware", "dc_asgd", "gap_aware", "dana_zero", "weight_prediction"])
def test_heat_map_of_workers(cli, compensation: str) -> None:
    answer = cli(*QUICK, "--workers", "3", "--compensation", compensation)
    assert answer.code == 0
    assert f"Plain momentum with {compensation}." in answer.out
    assert answer.out.splitlines()[-1].startswith("in order")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--slow", "0"], "--slow: 0 must be WORKER=FACTOR, as in 0=4."),
        (["--slow", "0=2", "--slow", "0=3"], "--slow: worker 0 is named twice."),
        (["--slow", "8=2"], "Invalid slow worker value: 8. Must be an integer from 0 to 7."),
        (["--slow", "1=-2"], "Invalid slow factor of worker 1 value: -2."),
        (["--cv", "-1"], "Invalid cv value: -1. Must be from 0 to 3."),
        (["--push-s", "nan"], "Invalid push_s value: nan."),
        (["--momentum", "1"], "--momentum: 1 is not in [0, 1)."),
        (["--trace", "none.csv"], "none.csv: there is no such file."),
        (["--trace", "none.csv", "--cv", "1"], "--cv: 1 is of made-up times"),
        (["--delay", "3", "--workers", "2"], "--workers: is of workers, and --delay takes their place."),
        (["--delay", "3", "--delay", "4"], "--delay: may be repeated with --quadratic only."),
        (["--rho", "2"], "--rho: is for --quadratic only."),
        (["--compensation", "dc_asgd"], "--compensation: is for --quadratic only."),
        (["--write", "order.txt"], "--write: order.txt is no name of a table; it must end in .csv."),
        (["--write", "there.csv"], "--write: there.csv exists; name another file, or replace it with --force."),
        (["--quadratic", "--write", "order.csv"], "--write: the order of pushes is written without --quadratic."),
        (["--quadratic", "--plot", "map.pdf"], "--plot: map.pdf is no name of a picture; it must end in .png."),
        (["--quadratic", "--rho", "-1"], "Invalid rho value: -1."),
        (["--quadratic", "--tensors", "33", "--updates", "40"], "Invalid tensors value: 33."),
        (["--quadratic", "--updates", "5"], "Invalid updates value: 5. Must be an integer at least 20."),
        (
            ["--quadratic", "--updates", "40", "--pushes-per-update", "2", "--compensation", "dana_zero"],
            "dana_zero takes one push to an update; staleness_aware takes several.",
        ),
        (["--compensation", "none"], "Invalid value for '--compensation'"),
    ],
)
def test_bad_usage(cli, tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "there.csv").write_text("", encoding="utf-8")
    answer = cli(*COMMAND, *arguments)
    assert answer.code == 2
    assert f"error: {message}" in answer.err
    assert answer.out == ""


def test_recorded_workers_are_those_of_the_record(cli, tmp_path: Path) -> None:
    (tmp_path / "times.csv").write_text("1,1\n", encoding="utf-8")
    answer = cli(*COMMAND, "--trace", "times.csv", "--workers", "3")
    assert (answer.code, answer.err) == (2, "error: --workers: 3; the recorded times are of 2.\n")


def test_brings_no_torch_along() -> None:
    script = (
        "import sys; from orchestrator.cli.main import main; "
        "code = main(['simulate', 'delay', '--updates', '5']); "
        "sys.exit(code or bool({'torch', 'ray', 'mlflow'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
