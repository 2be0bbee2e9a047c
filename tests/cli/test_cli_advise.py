"""`orchestrator advise` on records of workers that are known."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

NUM_STEPS, NUM_WORKERS = 40, 4
Write = Callable[..., Path]


@pytest.fixture
def times(tmp_path: Path) -> Write:
    """Writes seconds ``[num_steps, num_workers]``, and elements where they are given, as a job records them."""

    def write(seconds: np.ndarray, elements: np.ndarray | None = None) -> Path:
        sizes = np.full(seconds.shape, 100) if elements is None else elements
        lines = (
            json.dumps({"step": step, "seconds": row.tolist(), "elements": size.tolist()})
            for step, (row, size) in enumerate(zip(seconds, sizes, strict=True), start=1)
        )
        path = tmp_path / "times.jsonl"
        path.write_text("\n".join(lines).replace("NaN", "null") + "\n")
        return path

    return write


def ordinary() -> np.ndarray:
    return np.random.default_rng(0).uniform(0.98, 1.02, (NUM_STEPS, NUM_WORKERS))


def bursty(factor: float) -> np.ndarray:
    """In every second step one worker is slow, each in turn."""
    seconds = ordinary()
    slow_steps = np.arange(0, NUM_STEPS, 2)
    seconds[slow_steps, slow_steps // 2 % NUM_WORKERS] *= factor
    return seconds


def test_a_code_that_pays(cli, times: Write) -> None:
    answer = cli("advise", times(bursty(10)), "--no-carry-over")
    assert (answer.code, answer.err) == (0, "")
    about, _, header, *rest = answer.out.splitlines()
    assert about.endswith(
        "times.jsonl: 4 workers, 40 steps, in seconds of the workers' own computing, "
        "of which 0 s a step do not grow with a worker's share (--fixed-s)."
    )
    assert header.split() == ["SCHEME", "CLOSES", "EXACT", "LOAD", "TOTAL", "GAIN"]
    table = {line.split()[0]: line.split()[1:] for line in rest[:5]}
    assert table["uncoded"][:3] == ["first", "yes", "0.25"]
    assert table["fractional:stragglers=1"][1:3] == ["yes", "0.5"]
    assert table["ignore:stragglers=1"][1] == "no"
    assert rest[-2].startswith("Recommended: fractional:stragglers=1, which would have saved 6")
    assert rest[-2].endswith("of the time, not counting what messages take.")
    assert rest[-1] == "exchange: {name: coded, scheme: fractional, stragglers: 1}"


def test_a_code_that_does_not_pay(cli, times: Write) -> None:
    answer = cli("advise", times(bursty(1.8)))
    assert answer.out.splitlines()[-2:] == [
        "Recommended: no coding, as no exact scheme would have saved more than 5%.",
        "exchange: {name: all_reduce}",
    ]


def test_lossy_schemes_are_recommended_only_on_request(cli, times: Write) -> None:
    path = times(bursty(1.8))
    answer = cli("advise", path, "--allow-lossy", "--no-carry-over")
    assert "It leaves out samples, which changes the updates." in answer.out
    assert answer.out.splitlines()[-1] == "exchange: {name: coded, scheme: ignore, stragglers: 1}"
    none = cli("advise", times(ordinary()), "--allow-lossy")
    assert "Recommended: no coding, as no scheme would have saved more than 5%." in none.out


def test_a_slow_worker_and_its_remedy(cli, times: Write) -> None:
    seconds = ordinary()
    seconds[:, 2] *= 1.6
    path = times(seconds)
    lines = cli("advise", path).out.splitlines()
    assert lines[-3] == "exchange: {name: all_reduce}"
    assert lines[-2].startswith("Worker 2 has taken 1.6 times as long as the others since step ")
    assert lines[-2].endswith(": the remedy is to replace it, or to give it less to do.")
    remedied_s = np.delete(seconds, 2, axis=1).max(axis=1).sum()
    assert lines[-1] == (f"With ordinary workers in their place, uncoded steps would have taken {remedied_s:.4g} s.")
    document = json.loads(cli("advise", path, "--json").out)
    (slow,) = document["slow_workers"]
    assert slow["worker"] == 2
    assert slow["ratio"] == pytest.approx(1.6, rel=0.02)
    assert document["uncoded_with_ordinary_workers_s"] == pytest.approx(remedied_s, rel=1e-3)


def test_slow_data(cli, times: Write) -> None:
    rng = np.random.default_rng(1)
    elements = np.full((NUM_STEPS, NUM_WORKERS), 100)
    elements[np.arange(NUM_STEPS), rng.integers(NUM_WORKERS, size=NUM_STEPS)] = 500
    path = times(ordinary() * elements / 100, elements)
    answer = cli("advise", path, "--no-carry-over")
    assert re.search(r"Time grows with the elements of the data to the power of (0\.9|1\.0)\d;", answer.out)
    assert "the largest part of a batch is 2.4" in answer.out
    assert answer.out.splitlines()[-1] == "exchange: {name: all_reduce}"
    document = json.loads(cli("advise", path, "--json").out)
    assert document["elements_exponent"] == pytest.approx(1, abs=0.03)
    assert document["uneven_work"] == pytest.approx(2.5, rel=0.03)
    assert document["slow_workers"] == []


def test_json_and_what_is_fixed(cli, times: Write) -> None:
    seconds = bursty(10)
    seconds[3, 0] = np.nan
    path = times(seconds)
    plain, fixed = (
        json.loads(cli("advise", path, "--json", "--no-carry-over", "--fixed-s", value).out) for value in ("0", "0.5")
    )
    assert (plain["workers"], plain["steps"], plain["unknown_times"]) == (NUM_WORKERS, NUM_STEPS, 1)
    assert (plain["fixed_s"], fixed["fixed_s"]) == (0, 0.5)
    assert plain["recommended"] == plain["choices"][0] | plain["recommended"]
    totals_s = [{row["scheme"]: row["total_s"] for row in found["choices"]} for found in (plain, fixed)]
    assert totals_s[0]["uncoded"] == pytest.approx(totals_s[1]["uncoded"])
    assert totals_s[0]["fractional"] == pytest.approx(NUM_STEPS * 2, rel=0.03)
    assert totals_s[1]["fractional"] == pytest.approx(NUM_STEPS * 1.5, rel=0.03)
    assert plain["recommended"]["spec"] == "exchange: {name: coded, scheme: fractional, stragglers: 1}"
    assert "1 time not known, and taken for that of the slowest worker" in cli("advise", path).out


def test_several_models(cli, times: Write) -> None:
    document = json.loads(cli("advise", times(bursty(3)), "--models", "2", "--json").out)
    assert {"sr_sgc", "m_sgc"} <= {row["scheme"] for row in document["choices"]}
    (line,) = (row["spec"] for row in document["choices"] if row["scheme"] == "m_sgc")
    assert line.endswith("close: deadline, mu: 1.0, wait: min}")


def test_a_sequential_scheme_says_how_many_models_it_needs(cli, times: Write) -> None:
    seconds = np.ones((NUM_STEPS, 5))
    for step in range(0, NUM_STEPS, 2):  # two workers at a time, of five, so that no group of workers has them both
        seconds[step, [step % 5, (step + 1) % 5]] = 10
    answer = cli("advise", times(seconds), "--models", "2", "--no-carry-over")
    *_, verdict, needs, line = answer.out.splitlines()
    assert verdict.startswith("Recommended: m_sgc:burst=1,window=2,")
    assert needs == "It needs 2 or more models that share the workers."
    assert line.startswith("exchange: {name: coded, scheme: m_sgc, burst: 1, window: 2,")


def test_the_spec_lines_are_legal(cli, times: Write, spec: Path) -> None:
    """Each of them can be pasted into a job spec; of the sequential ones, into one whose workers models share."""
    document = json.loads(cli("advise", times(bursty(10)), "--models", "2", "--json").out)
    text = spec.read_text()
    assert len(document["choices"]) == 7
    for row in document["choices"]:
        spec.write_text(f"{text}{row['spec']}\nresources: {{workers: {NUM_WORKERS}}}\nbatch: {{global_size: 48}}\n")
        answer = cli("check", spec)
        if row["scheme"] in ("sr_sgc", "m_sgc"):
            (problem,) = answer.err.splitlines()
            assert "so 2 or more models must share the workers" in problem
        else:
            assert (answer.code, answer.err) == (0, ""), row["spec"]


@pytest.mark.parametrize(
    ("num_steps", "options", "message"),
    [
        (19, [], "Advice for 1 model needs at least 20 recorded steps; there are 19."),
        (20, ["--models", "3"], "Advice for 3 models needs at least 22 recorded steps; there are 20."),
        (20, ["--fixed-s", "2"], "fixed_s: 2 s is not less than the"),
        (20, ["--fixed-s", "inf"], "fixed_s: inf s is not less than the"),
    ],
)
def test_what_no_advice_is_given_on(num_steps: int, options: list[str], message: str, cli, times: Write) -> None:
    answer = cli("advise", times(ordinary()[:num_steps]), *options)
    assert (answer.code, answer.out) == (2, "")
    assert message in answer.err
    assert len(answer.err.splitlines()) == 1


def test_a_job_that_is_not_there(cli, tmp_path: Path) -> None:
    answer = cli("advise", "nobody", "--storage", tmp_path / "runs")
    assert (answer.code, answer.out) == (2, "")
    assert "no nobody in" in answer.err


def test_it_loads_neither_torch_nor_ray(times: Write) -> None:
    script = (
        "import sys; from orchestrator.cli.main import main; code = main(sys.argv[1:]);"
        "print(code, *sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    command = [sys.executable, "-c", script, "advise", str(times(ordinary()))]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    code, *modules = process.stderr.splitlines()[-1].split()
    assert code == "0"
    assert not {"torch", "ray", "mlflow", "datasets", "matplotlib"} & set(modules)
