"""The layer rule and the plane rule of docs/architecture.md, read from the imports themselves."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "orchestrator"
LAYERS = {
    "spec": 0,
    "core": 1,
    "optim": 2,
    "batching": 2,
    "exchange": 2,
    "engines": 2,
    "data": 2,
    "modulate": 2,
    "losses": 2,
    "checkpoint": 2,
    "tracking": 2,
    "simulate": 2,
    "train": 3,
    "schedule": 4,
    "launch": 5,
    "cli": 6,
}
TRAINING = {"optim", "exchange", "engines", "data", "modulate", "losses", "checkpoint", "train"}
# Which rooms may import a heavy library at all; everywhere else it is a mistake.
ALLOWED = {
    "torch": {*TRAINING, "core"},
    "ray": {"schedule"},
    "mlflow": {"tracking"},
    "deepspeed": {"engines"},
    "accelerate": {"engines"},
    "optuna": {"schedule"},
}
# The one door through which the control side talks to a cluster that is already there.
EXCEPTIONS = {("launch/ray_connection.py", "ray")}
FILES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE)


def imports_of(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse((PACKAGE / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
    return found


def test_every_room_has_a_layer() -> None:
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert rooms == set(LAYERS)


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_point_down(path: Path) -> None:
    room = path.parts[0]
    for name in imports_of(path):
        parts = name.split(".")
        if parts[0] == "orchestrator" and len(parts) > 1 and parts[1] != room:
            assert LAYERS[parts[1]] < LAYERS[room], f"{path} (layer {LAYERS[room]}) imports {name}"


@pytest.mark.parametrize("path", FILES, ids=str)
def test_heavy_libraries_stay_in_their_rooms(path: Path) -> None:
    for name in imports_of(path):
        library = name.split(".")[0]
        if library in ALLOWED and (path.as_posix(), library) not in EXCEPTIONS:
            assert path.parts[0] in ALLOWED[library], f"{path} imports {name}"


def test_core_values_are_free_of_torch() -> None:
    """What the control side takes from core does not bring torch along."""
    script = (
        "import orchestrator.core.run_directory, orchestrator.core.values, orchestrator.core.errors, sys, json;"
        "import orchestrator.core.tables, orchestrator.core.protocols;"
        "print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    )
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert not {"torch", "ray", "mlflow", "datasets"} & set(json.loads(output))
