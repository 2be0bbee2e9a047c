"""Specs and storages for the command line, the command itself, and a driver that trains nothing."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.cli.main import main

HERE = Path(__file__).parent
SPEC = "name: tiny\nrecipe: {target: 'recipe.py:Tiny'}\ntrain: {steps: 6}\n"
RECIPE = """
class Tiny:
    def __init__(self, hidden=8):
        self.hidden = hidden

    def build_model(self):
        from torch import nn
        return nn.Linear(4, self.hidden)

    def build_datasets(self):
        return [], None

    def loss(self, model, batch):
        return model(batch).mean(), {}
"""
WITH_STANDIN = """
import sys
from orchestrator.launch import local, ray_entrypoint
local.DRIVER_MODULE = ray_entrypoint.DRIVER_MODULE = "cli_standin_driver"
from orchestrator.cli.main import main
sys.exit(main(sys.argv[1:]))
"""
"""The command line whose drivers are ``cli_standin_driver.py``."""


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What a developer's shell may hold must not reach the tests; files go below ``tmp_path``."""
    for name in (
        "MLFLOW_TRACKING_URI",
        "ORCHESTRATOR_STORAGE",
        "RAY_API_SERVER_ADDRESS",
        "RAY_ADDRESS",
        "RAY_AUTH_MODE",
        "NO_COLOR",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(HERE), prepend=os.pathsep)


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    """A good spec beside its recipe."""
    folder = tmp_path / "job"
    folder.mkdir()
    (folder / "recipe.py").write_text(RECIPE)
    (folder / "job.yaml").write_text(SPEC)
    return folder / "job.yaml"


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """A storage that nobody has made yet."""
    return tmp_path / "runs"


@dataclass(frozen=True)
class Answer:
    """What a command left behind."""

    code: int
    out: str
    err: str


Command = Callable[..., Answer]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Command:
    """The command line within this process."""

    def run(*arguments: object) -> Answer:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return Answer(code, *capsys.readouterr())

    return run


@pytest.fixture
def command() -> Command:
    """The command line as a process of its own."""

    def run(*arguments: object) -> Answer:
        process = subprocess.run(
            [Path(sys.executable).with_name("orchestrator"), *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONWARNINGS": "error"},
        )
        return Answer(process.returncode, process.stdout, process.stderr)

    return run


@pytest.fixture
def with_standin(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """The start of a command line whose driver behaves as told; see ``cli_standin_driver.py``."""

    def start(behavior: str, *arguments: object) -> list[str]:
        monkeypatch.setenv("STANDIN", behavior)
        return [sys.executable, "-c", WITH_STANDIN, *map(str, arguments)]

    return start
