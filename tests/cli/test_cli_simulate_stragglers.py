"""`orchestrator simulate stragglers` over made-up and recorded times."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

GC = "cyclic:stragglers=15"
M_SGC = "m_sgc:burst=1,window=2,max_stragglers=27"
SMALL = ("simulate", "stragglers", "--workers", "8", "--jobs", "30")


def rows(out: str) -> dict[str, list[str]]:
    """The cells of each line of the table by the scheme; those of the header by its name."""
    _, _, table = out.partition("\n\n")
    return {line.split("  ")[0]: [cell.strip() for cell in line.split("  ") if cell] for line in table.splitlines()}


def test_the_reference_trace_as_a_table(cli) -> None:
    answer = cli("simulate", "stragglers", "--scheme", GC, "--scheme", M_SGC, "--models", "2", "--wait", "min")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith("reference: 256 workers, 480 jobs. Uncoded, 4.6% of the times are more than 2 times")
    table = rows(answer.out)
    assert list(table) == ["SCHEME", "uncoded", GC, M_SGC]
    columns = table["SCHEME"]
    assert dict(zip(columns, table[GC], strict=True)) == {
        "SCHEME": GC,
        "CLOSES": "mu 1, min",
        "LOAD": "0.0625",
        "DELAY": "0",
        "MESSAGES": "1",
        "TOTAL": "675.9 s",
        "RELATIVE": "0.739",
        "WAITED OUT": "2",
        "SKIPPED": "0",
        "MISSING": "2.8%",
        "IN FLIGHT": "1",
        "FASTEST": "1.407 s",
    }
    sequential = dict(zip(columns, table[M_SGC], strict=True))
    assert (sequential["TOTAL"], sequential["DELAY"], sequential["MESSAGES"]) == ("641.4 s", "1", "2")
    assert table["uncoded"][5:8] == ["914.1 s", "1.000", "480"]


def test_json(cli) -> None:
    answer = cli(*SMALL, "--scheme", "fractional:stragglers=1", "--carry-over", "--decode", "--seed", "4", "--json")
    document = json.loads(answer.out)
    assert (document["trace"], document["workers"], document["jobs"]) == ("reference", 8, 30)
    assert document["carry_over"] is True
    assert set(document["uncoded"]) == {"late_share", "bursts", "slowest_ratio"}
    uncoded, coded = document["schemes"]
    assert (coded["scheme"], coded["parameters"]) == ("fractional", {"stragglers": 1})
    assert coded["rule"]["kind"] == "first"
    assert coded["total_s"] == pytest.approx(sum(coded["round_s"]))
    assert coded["relative"] == pytest.approx(coded["total_s"] / uncoded["total_s"])
    assert (len(coded["round_s"]), coded["undecoded"]) == (30, 0)
    assert 1 < coded["survivor_sets"] <= 30
    other_seed = json.loads(cli(*SMALL, "--scheme", "uncoded", "--seed", "5", "--json").out)
    assert other_seed["schemes"][0]["total_s"] != uncoded["total_s"]


def test_the_uncoded_baseline_comes_first_and_once(cli) -> None:
    answer = cli(*SMALL, "--scheme", "ignore", "--scheme", "uncoded")
    assert list(rows(answer.out)) == ["SCHEME", "uncoded", "ignore:stragglers=1"]


def test_each_scheme_has_its_own_default_of_closing(cli) -> None:
    answer = cli(*SMALL, "--scheme", "fractional", "--scheme", "sr_sgc", "--models", "2", "--mu", "0.5")
    table = rows(answer.out)
    assert table["fractional:stragglers=1"][1] == "first"
    assert table["sr_sgc:burst=1,window=2,max_stragglers=1"][1] == "mu 0.5, min"
    assert "times are more than 1.5 times the fastest of the round" in answer.out
    everything = rows(cli(*SMALL, "--scheme", "fractional", "--wait", "all").out)
    assert everything["fractional:stragglers=1"][1] == "mu 1, all"


def test_search_finds_the_fastest_of_each_exact_scheme(cli) -> None:
    command = (*SMALL, "--trace", "gilbert_elliott:factor=20", "--search", "--json")
    answer = cli(*command)
    found = {row["scheme"]: row for row in json.loads(answer.out)["schemes"]}
    assert list(found) == ["uncoded", "fractional", "cyclic"]
    assert answer.err.splitlines() == ["fractional: trying 4 settings", "cyclic: trying 8 settings"]
    for stragglers in range(8):
        (_, row) = json.loads(cli(*command[:-2], "--scheme", f"cyclic:stragglers={stragglers}", "--json").out)[
            "schemes"
        ]
        assert row["total_s"] >= found["cyclic"]["total_s"]
    shared = json.loads(cli(*SMALL[:-1], "10", "--search", "--models", "2", "--workers", "4", "--json").out)
    assert [row["scheme"] for row in shared["schemes"]] == ["uncoded", "fractional", "cyclic", "sr_sgc", "m_sgc"]


def test_search_leaves_given_parameters_alone(cli) -> None:
    answer = cli(*SMALL, "--search", "--scheme", "fractional:stragglers=7", "--scheme", "ignore")
    assert list(rows(answer.out))[2:] == ["fractional:stragglers=7", "ignore:stragglers=1"]


def test_recorded_times(cli, tmp_path: Path) -> None:
    (tmp_path / "times.csv").write_text("1,2\n1,1\n3,1\n")
    answer = cli("simulate", "stragglers", "--trace", "times.csv", "--scheme", "ignore", "--json")
    assert (answer.code, answer.err) == (0, "")
    document = json.loads(answer.out)
    assert (document["trace"], document["workers"], document["jobs"]) == ("times.csv", 2, 3)
    assert [row["round_s"] for row in document["schemes"]] == [[2, 1, 3], [1, 1, 1]]
    fractional = ("simulate", "stragglers", "--trace", "times.csv", "--scheme", "fractional", "--json")
    assert json.loads(cli(*fractional).out)["schemes"][1]["round_s"] == pytest.approx([2, 2, 2])
    fixed = json.loads(cli(*fractional, "--fixed-s", "0.5").out)
    assert fixed["schemes"][1]["round_s"] == pytest.approx([1.5, 1.5, 1.5])


def test_a_picture(cli, tmp_path: Path) -> None:
    command = (*SMALL, "--scheme", "fractional", "--plot", "picture.png")
    assert cli(*command).code == 0
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    refused = cli(*command)
    assert (refused.code, refused.out) == (2, "")
    assert "--plot: picture.png exists" in refused.err
    assert cli(*command, "--force").code == 0


def test_jobs_that_are_not_decoded_are_told(cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.core.coding.uncoded.Uncoded.close", lambda self, arrived: ())
    answer = cli(*SMALL, "--scheme", "uncoded")
    assert (answer.code, answer.err) == (0, "warning: uncoded: 30 jobs could not be decoded.\n")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--scheme: name at least one, or let --search find the fastest parameters of each."),
        (["--scheme", "raid"], "raid: there is no scheme raid; legal are uncoded, ignore,"),
        (["--scheme", "cyclic:stragglers=8"], "Invalid stragglers value: 8. Must be an integer from 0 to 7."),
        (["--scheme", "m_sgc"], "models: 1 cannot share the workers under a scheme that decodes a job up to 1 rounds"),
        (["--scheme", "m_sgc", "--search"], "m_sgc has no legal parameters with 8 workers and --models 1."),
        (["--scheme", "uncoded", "--trace", "lambda:x=1"], "lambda has no x; legal are cold_start, per_batch_s."),
        (["--scheme", "uncoded", "--trace", "gone.csv"], "gone.csv: there is no such file."),
        (["--scheme", "uncoded", "--trace", "gone"], "no gone in"),
        (["--scheme", "uncoded", "--fixed-s", "1"], "--fixed-s: 1 is for recorded times"),
        (["--scheme", "uncoded", "--trace", "two.csv"], "--workers: 8; the recorded times are of 2."),
        (["--scheme", "uncoded", "--plot", "a.svg"], "--plot: a.svg is no name of a picture; it must end in .png."),
        (["--scheme", "uncoded", "--plot", "nowhere/a.png"], "--plot: there is no folder"),
        (["--scheme", "uncoded", "--mu", "inf"], "--mu: inf is no finite number."),
        (["--scheme", "uncoded", "--mu", "-1"], "Invalid value for '--mu'"),
        (["--scheme", "uncoded", "--wait", "never"], "Invalid value for '--wait'"),
        (["--scheme", "uncoded", "--seed", "1048576"], "Invalid seed value: 1048576."),
    ],
)
def test_what_cannot_be_simulated(options: list[str], message: str, cli, tmp_path: Path) -> None:
    (tmp_path / "two.csv").write_text("1,2\n" * 3)
    answer = cli(*SMALL, *options)
    assert (answer.code, answer.out) == (2, "")
    assert message in answer.err


def test_recorded_times_that_are_too_few(cli, tmp_path: Path) -> None:
    (tmp_path / "two.csv").write_text("1,2\n" * 3)
    command = ("simulate", "stragglers", "--trace", "two.csv", "--scheme", "uncoded")
    assert "jobs: 4 jobs, decoded up to 0 rounds after their own, need 4 rounds; the trace has 3." in (
        cli(*command, "--jobs", "4").err
    )
    assert "--models: 4; 3 recorded steps are too few for so many." in cli(*command, "--models", "4").err


def test_it_loads_neither_torch_nor_ray() -> None:
    script = (
        "import sys; from orchestrator.cli.main import main; code = main(sys.argv[1:]);"
        "print(code, *sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    command = [sys.executable, "-c", script, *SMALL, "--scheme", "fractional"]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    code, *modules = process.stderr.splitlines()[-1].split()
    assert code == "0"
    assert not {"torch", "ray", "mlflow", "datasets", "matplotlib"} & set(modules)
