"""What a bad spec is, and the texts that bad specs are made of.

Every spec lies in a folder ``jobs/tiny`` beside a good recipe, is called ``job.yaml``, and has exactly the fault
that its id names.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

RECIPE = """
class Tiny:
    def __init__(self, hidden: int = 4, *, depth: int = 1) -> None:
        self.hidden = hidden

    def build_model(self): ...

    def build_datasets(self): ...

    def loss(self, model, batch): ...
"""
GOOD = "recipe: {target: recipe.py:Tiny}\ntrain: {steps: 8}\n"
TRAIN = "train: {steps: 8}\n"
METHODS = ("build_model(self)", "build_datasets(self)", "loss(self, model, batch)")


@dataclass(frozen=True)
class BadSpec:
    """One faulty spec."""

    id: str
    text: str | bytes
    """Contents of ``job.yaml``."""
    path: str
    """Dotted path that a problem must name; empty for the file as a whole."""
    message: str
    """What the problem must say, anywhere in its line."""
    overrides: tuple[str, ...] = ()
    files: dict[str, str | bytes] = field(default_factory=dict)
    """More files, relative to the spec's folder."""

    def write(self, folder: Path) -> Path:
        """Write everything below a folder and return the spec's file."""
        job = folder / "jobs" / "tiny"
        for name, content in {"recipe.py": RECIPE, "job.yaml": self.text, **self.files}.items():
            path = job / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        return job / "job.yaml"


def good(lines: str) -> str:
    """A good spec with these lines below."""
    return f"{GOOD}{lines}\n"


def aims_at(target: str, args: str = "{}") -> str:
    """A good spec but for the target or the arguments of its recipe."""
    return f"recipe: {{target: '{target}', args: {args}}}\n{TRAIN}"


def class_with(*methods: str, head: str = "class Tiny:") -> str:
    """Source of a recipe with these methods only."""
    return head + "".join(f"\n    def {method}: ..." for method in methods) + "\n"


def hugging_face(fields: str) -> str:
    """A good spec that reads local JSON files."""
    return good(f"data: {{source: {{name: hugging_face, path: json, {fields}}}}}")
