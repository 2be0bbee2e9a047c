"""The contract of every command: exit codes, one message per error, data on stdout, messages on stderr."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator import __version__
from orchestrator.cli import main as main_module
from orchestrator.cli.main import main
from orchestrator.core.errors import OutOfReachError

COMMANDS = (
    "check",
    "plan",
    "run",
    "submit",
    "resume",
    "recover",
    "list",
    "status",
    "watch",
    "queue",
    "logs",
    "stop",
    "report",
    "compare",
    "export",
    "fit-curve",
    "advise",
    "simulate",
    "cluster",
    "methods",
    "schema",
    "doctor",
)
HEAVY = {"torch", "ray", "mlflow", "datasets", "numpy", "rich"}


def test_help_names_every_command_and_the_exit_codes(cli) -> None:
    answer = cli("--help")
    assert answer.code == 0
    assert all(f"\n  {name} " in answer.out for name in COMMANDS)
    assert "..." not in answer.out.partition("Commands:")[2]
    assert "5 out of\n  reach" in answer.out or "5 out of reach" in answer.out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str, cli) -> None:
    answer = cli(name, "--help")
    assert answer.code == 0
    assert f"Usage: orchestrator {name}" in answer.out
    assert "--set" in answer.out or name not in ("check", "plan", "run", "submit", "resume", "fit-curve")
    assert "--json" in answer.out or name not in (
        "check",
        "plan",
        "list",
        "status",
        "report",
        "recover",
        "compare",
        "queue",
        "export",
        "fit-curve",
        "advise",
        "methods",
        "doctor",
    )


def test_version(cli) -> None:
    assert cli("--version").out == f"orchestrator {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["checks"], "No such command 'checks'. Did you mean 'check'"),
        (["check"], "Missing argument 'SPEC'"),
        (["check", "a.yaml", "b.yaml"], "unexpected extra argument"),
        (["list", "--jsn"], "No such option"),
        (["stop", "job", "--timeout", "soon"], "Invalid value for '--timeout'"),
        (["stop", "job", "--timeout", "-1"], "Invalid value for '--timeout'"),
        (["logs", "job", "--rank", "-1"], "Invalid value for '--rank'"),
        (["logs", "job", "--attempt", "0"], "Invalid value for '--attempt'"),
    ],
)
def test_bad_usage_is_2_and_one_message_on_stderr(arguments: list[str], message: str, cli) -> None:
    answer = cli(*arguments)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("error: ")
    assert message in answer.err


def test_without_a_command_the_help_is_shown(cli) -> None:
    answer = cli()
    assert answer.code == 2
    assert "Usage: orchestrator" in answer.out + answer.err


def fail_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def schema() -> None:
        raise error

    monkeypatch.setattr("orchestrator.spec.schema.job_schema", schema)


def test_an_error_of_ours_gives_its_message_and_its_exit_code(cli, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(monkeypatch, OutOfReachError("http://x: nobody answers."))
    answer = cli("schema")
    assert (answer.code, answer.out, answer.err) == (5, "", "error: http://x: nobody answers.\n")


def test_an_unexpected_error_is_one_message_and_a_file(cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(main_module.tempfile, "tempdir", str(tmp_path))
    fail_with(monkeypatch, RuntimeError("what is this"))
    answer = cli("schema")
    assert (answer.code, answer.out) == (1, "")
    assert answer.err.startswith("error: RuntimeError: what is this\nThis is a bug")
    assert "Traceback" not in answer.err
    (file,) = tmp_path.glob("orchestrator-error-*.txt")
    assert str(file) in answer.err
    assert "Traceback" in file.read_text()


def test_a_full_disk_is_no_bug(cli, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(monkeypatch, OSError(errno.ENOSPC, "No space left on device", "/data/file"))
    answer = cli("schema")
    assert (answer.code, answer.err) == (2, "error: /data/file: No space left on device\n")


def test_ctrl_c_ends_quietly_with_the_code_of_the_shell(cli, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(monkeypatch, KeyboardInterrupt())
    answer = cli("schema")
    assert answer.code == 130
    assert "Traceback" not in answer.err


def test_a_reader_that_leaves_is_no_error() -> None:
    process = subprocess.Popen(
        [Path(sys.executable).with_name("orchestrator"), "methods"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.close()
    _, err = process.communicate()
    assert (process.returncode, err) == (0, b"")


@pytest.mark.parametrize("arguments", [["--help"], ["check", "SPEC"], ["methods"], ["schema"], ["list"]])
def test_quick_commands_load_nothing_heavy(arguments: list[str], spec: Path) -> None:
    script = (
        "import sys; from orchestrator.cli.main import main; code = main(sys.argv[1:]);"
        "print(code, *sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    given = [str(spec) if argument == "SPEC" else argument for argument in arguments]
    process = subprocess.run([sys.executable, "-c", script, *given], capture_output=True, text=True, check=True)
    code, *modules = process.stderr.splitlines()[-1].split()
    assert code == "0"
    assert not HEAVY & set(modules)


def test_the_entry_point_returns_the_exit_code(command) -> None:
    assert command("checks").code == 2
    assert command("--version").code == 0


def test_shell_completion_is_there() -> None:
    environment = {
        **os.environ,
        "_ORCHESTRATOR_COMPLETE": "complete_bash",
        "COMP_WORDS": "orchestrator me",
        "COMP_CWORD": "1",
    }
    orchestrator = Path(sys.executable).with_name("orchestrator")
    output = subprocess.run([orchestrator], capture_output=True, text=True, check=False, env=environment).stdout
    assert output.split() == ["methods"]


def test_check(cli, spec: Path) -> None:
    answer = cli("check", spec)
    assert (answer.code, answer.err) == (0, "")
    assert "job tiny is in order" in answer.out
    assert json.loads(cli("check", spec, "--json").out) == {"ok": True, "name": "tiny", "problems": []}


def test_check_as_json_has_the_problems_as_data(cli, spec: Path) -> None:
    answer = cli("check", spec, "--json", "--set", "optimizer.name=lmab", "--set", "train.step=3")
    assert (answer.code, answer.err) == (2, "")
    document = json.loads(answer.out)
    assert not document["ok"]
    assert {problem["path"] for problem in document["problems"]} == {"optimizer.name", "train.step"}
    assert {problem["suggestion"] for problem in document["problems"]} == {"lamb", "steps"}


def test_schema_is_json_schema(cli) -> None:
    assert json.loads(cli("schema").out)["$schema"].startswith("https://json-schema.org")


def test_methods(cli) -> None:
    overview = cli("methods").out
    assert "optimizer\n" in overview
    assert "lamb" in overview
    table = overview.partition("method and engine\n")[2].splitlines()
    assert [line.split() for line in table[:2]] == [
        ["ddp", "fsdp2", "deepspeed", "deepspeed", "accelerate", "accelerate"],
        ["stage", "0", "stage", "2", "FSDP", "DEEPSPEED"],
    ]
    assert ["optimizer", "came", "yes", "yes", "yes", "no", "yes", "no"] in [line.split() for line in table]
    assert "  came requires rows of the engine" in table
    assert max(map(len, table)) <= 100
    assert (
        "deepspeed (zero_stage 0) provides: changing_batch, gradient_groups, rows, step_loss, uneven_batch, "
        "whole_step, whole_tensors" in cli("methods", "deepspeed").out
    )
    in_full = cli("methods", "came").out
    assert "deepspeed (zero_stage 2) lacks: rows" in in_full
    assert "weight_decay" in in_full
    assert "= 0.0002" in in_full
    assert [row["name"] for row in json.loads(cli("methods", "lamb", "--json").out)] == ["lamb"]


def test_an_unknown_method_gets_a_suggestion(cli) -> None:
    answer = cli("methods", "lmab")
    assert answer.code == 2
    assert "did you mean lamb?" in answer.err


def test_plan_shows_the_arithmetic_and_starts_nothing(cli, spec: Path, storage: Path) -> None:
    answer = cli("plan", spec, "--storage", storage, "--set", "batch.global_size=10", "--set", "resources.workers=3")
    assert answer.code == 0
    assert ">  3        3 to 4" in answer.out
    assert "6 steps, 60 samples" in answer.out
    assert f"run directory  {storage}/tiny" in answer.out
    assert "40 parameters" in answer.out
    assert not storage.exists()


def test_plan_as_json(cli, spec: Path, storage: Path) -> None:
    plan = json.loads(cli("plan", spec, "--storage", storage, "--json").out)
    assert plan["total_steps"] == 6
    assert plan["memory"]["num_parameters"] == 40
    assert plan["package"]["files"] == ["job.yaml", "recipe.py"]


def test_main_takes_its_arguments_from_the_process(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["orchestrator", "--version"])
    assert main() == 0
    assert capsys.readouterr().out == f"orchestrator {__version__}\n"
