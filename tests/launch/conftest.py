"""Specs to launch, and a driver that trains nothing in place of the real one."""

from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.launch import local, ray_entrypoint
from orchestrator.launch.prepare import PreparedJob, prepare
from orchestrator.spec.load import LoadedSpec, load_spec

RECIPE = """
class Recipe:
    def __init__(self, hidden=8):
        self.hidden = hidden

    def build_model(self):
        from torch import nn
        return nn.Sequential(nn.Linear(4, self.hidden), nn.BatchNorm1d(self.hidden), nn.Linear(self.hidden, 2))

    def build_datasets(self):
        return [], None

    def loss(self, model, batch):
        return model(batch).mean(), {}
"""


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    """What a developer's shell may hold must not reach the tests."""
    for name in ("MLFLOW_TRACKING_URI", "ORCHESTRATOR_STORAGE", "RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def storage(tmp_path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def load(tmp_path) -> Callable[..., LoadedSpec]:
    """Writes a spec with a recipe beside it and loads it."""

    def write_and_load(text: str = "", overrides: tuple[str, ...] = (), *, recipe: str = RECIPE) -> LoadedSpec:
        folder = tmp_path / "job"
        folder.mkdir(exist_ok=True)
        (folder / "recipe.py").write_text(recipe)
        (folder / "spec.yaml").write_text(
            f"name: tiny\nrecipe: {{target: 'recipe.py:Recipe'}}\ntrain: {{steps: 3}}\n{text}"
        )
        return load_spec(folder / "spec.yaml", overrides)

    return write_and_load


@pytest.fixture
def prepared(load, storage) -> PreparedJob:
    return prepare(load(), storage)


@pytest.fixture
def standin(monkeypatch) -> Callable[[str], None]:
    """Chooses how the stand-in driver behaves; see standin_driver.py."""
    monkeypatch.setattr(local, "DRIVER_MODULE", "standin_driver")
    monkeypatch.setattr(ray_entrypoint, "DRIVER_MODULE", "standin_driver")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    return lambda behavior: monkeypatch.setenv("STANDIN", behavior)


@pytest.fixture
def wait_for() -> Callable[[Callable[[], object]], None]:
    """Waits until something is true; the test's own timeout is the limit."""
    import time

    def wait(condition: Callable[[], object]) -> None:
        while not condition():
            time.sleep(0.02)

    return wait
